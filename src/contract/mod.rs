//! What Skaffold and Tilt tell a build command through the environment, and what they expect of
//! it. Pure: reads an [`crate::env::Env`], does nothing.

pub mod skaffold;

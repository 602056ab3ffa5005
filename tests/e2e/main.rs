//! The whole loop: real Skaffold, Tilt and kubectl, kindlift in their hands, and pods that a real
//! Kubernetes in the lab runs. Each test ends with what the pods themselves answer.

#[expect(
    dead_code,
    reason = "made for tests that look at nodes and not at pods"
)]
#[path = "../on_lab/engines.rs"]
mod engines;
mod kube;
#[expect(
    dead_code,
    reason = "made for tests that look at nodes and not at pods"
)]
#[path = "../support/lab.rs"]
mod lab;
#[expect(dead_code, reason = "made for tests of pulls")]
#[path = "../on_lab/registry.rs"]
mod registry;
#[expect(dead_code, reason = "kindlift's own words are looked at elsewhere")]
#[path = "../support/run.rs"]
mod run;
mod work;

mod changes;
mod first_minutes;
mod podman;
mod push;
mod readme;
mod skaffold;
mod skaffold_dev;
mod skaffold_end;
mod tilt;
mod tilt_extension;

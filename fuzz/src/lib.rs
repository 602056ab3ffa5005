//! What the fuzz targets have in common: a ceiling for memory, and what must hold of every image
//! that gets in.

use kindlift::image::{Digest, Image, Platform, chain_ids};
use serde_json::Value;

/// The most memory that kindlift may take, in bytes. An allocation beyond it fails, and libFuzzer
/// reports the input.
pub const MAX_MEMORY: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, MAX_MEMORY);

/// Does nothing; naming it links the allocator.
pub fn limit_memory() {
    assert_eq!(ALLOCATOR.limit(), MAX_MEMORY);
}

/// Requires that an image that was accepted for a platform agrees with itself.
pub fn check(image: &Image, platform: &Platform) {
    assert!(
        platform.runs(&image.platform),
        "{} for {platform}",
        image.platform
    );
    assert_eq!(image.manifest.digest, Digest::of(&image.manifest.bytes));
    assert_eq!(image.config.digest, Digest::of(&image.config.bytes));
    let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
    assert_eq!(manifest["config"]["digest"], image.config.digest.as_str());
    let none = Vec::new();
    let layers = manifest["layers"].as_array().unwrap_or(&none);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap_or(&none);
    assert_eq!(layers.len(), diff_ids.len());
    assert_eq!(layers.len(), image.layers.len());
    let own: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.diff_id.clone())
        .collect();
    let chain = chain_ids(&own);
    for (i, layer) in image.layers.iter().enumerate() {
        assert_eq!(layers[i]["digest"], layer.digest.as_str());
        assert_eq!(layers[i]["size"], layer.size);
        assert_eq!(diff_ids[i], layer.diff_id.0.as_str());
        assert_eq!(layer.chain_id, chain[i]);
        if layer.compression == kindlift::image::Compression::None {
            assert_eq!(layer.digest, layer.diff_id.0);
        }
    }
    assert!(image.size() >= image.layers.iter().map(|layer| layer.size).sum());
}

/// Requires of an error what a terminal and Skaffold require of it: no control characters, and no
/// endless line.
pub fn check_error(error: &kindlift::Error) {
    let hint = error.next_step().map(str::to_owned);
    for text in std::iter::once(error.to_string())
        .chain(error.causes())
        .chain(hint)
    {
        assert!(text.len() < 32 << 10, "{} bytes: {text:.100}", text.len());
        assert!(!text.chars().any(|c| c.is_control()), "{text:?}");
    }
}

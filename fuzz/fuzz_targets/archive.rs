//! Any bytes as an archive: it is refused, or what it holds agrees with itself and is all there.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use futures_util::StreamExt;
use kindlift::image::archive::Archive;
use kindlift::image::{Image, Platform};
use kindlift::source::Source;
use kindlift::source::spool::FileBlobs;
use kindlift_fuzz::{check, check_error, limit_memory};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    limit_memory();
    let file = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(file);
    file.write_all(bytes).unwrap();
    // That of the seeds.
    let platform = Platform::linux(std::env::consts::ARCH, None);
    let archive = match Archive::tar(Arc::new(file)) {
        Ok(archive) => archive,
        Err(error) => return check_error(&error),
    };
    let mut wanted = vec![None, Some("v1".to_owned())];
    match archive.names(None) {
        Ok(names) => wanted.extend(names.iter().map(|name| Some(name.to_string()))),
        Err(error) => check_error(&error),
    }
    for wanted in wanted {
        match archive.read(wanted.as_deref(), &platform) {
            Err(error) => check_error(&error),
            Ok((image, blobs)) => {
                check(&image, &platform);
                all_there(&image, &blobs);
            }
        }
    }
});

/// Requires that every layer has as many bytes as is said of it.
fn all_there(image: &Image, blobs: &FileBlobs) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for layer in &image.layers {
        let mut blob = blobs.open(&layer.digest);
        let mut size = 0;
        while let Some(piece) = runtime.block_on(blob.next()) {
            size += piece.expect("an accepted layer is all there").len() as u64;
        }
        assert_eq!(size, layer.size);
    }
}

// A changed header would seldom get beyond its checksum: that is made good again.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    if seed % 8 != 0 {
        for block in data[..size].chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                let mut header = tar::Header::new_gnu();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
    }
    size
});

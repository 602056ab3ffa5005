//! Layers on their way into a file: hashed as they are stored and, uncompressed, once more.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::stream::{self, BoxStream, StreamExt};
use sha2::{Digest as _, Sha256};
use zstd::stream::write::Decoder;

use super::output::Entry;
use crate::error::{Error, Result};
use crate::image::{Compression, DiffId, Digest, Image, Layer, refused, wrong_diff_id};
use crate::source::Source;

const DAMAGED: &str = "the source is damaged: build, save or push the image again";

/// Opens a layer's blob as it is stored. What is not what the manifest and the config say is an
/// error: of its last piece, if not before.
pub(crate) fn checked(
    image: &Image,
    index: usize,
    source: &dyn Source,
) -> BoxStream<'static, Result<Bytes>> {
    let layer = &image.layers[index];
    // What is stored uncompressed is checked by its one digest.
    let content = match layer.compression {
        Compression::None => Ok(None),
        _ => Inflate::new(layer, io::sink(), index).map(Some),
    };
    let content = match content {
        Ok(content) => content,
        Err(e) => return stream::once(async { Err(e) }).boxed(),
    };
    let state = (
        source.open(&layer.digest),
        Blob::new(layer, index),
        content,
        image.diff_ids(),
    );
    stream::try_unfold(
        state,
        |(mut pieces, mut blob, mut content, diff_ids)| async {
            let Some(piece) = pieces.next().await else {
                blob.end()?;
                if let Some(content) = content {
                    content.end(&diff_ids)?;
                }
                return Ok(None);
            };
            let piece = blob.take(piece?)?;
            if let Some(content) = &mut content {
                content.take(&piece)?;
            }
            Ok(Some((piece, (pieces, blob, content, diff_ids))))
        },
    )
    .boxed()
}

/// Writes a layer's blob as it is. Returns its size.
pub(super) async fn stored(
    image: &Image,
    index: usize,
    source: &dyn Source,
    mut entry: Entry<'_>,
) -> Result<u64> {
    let mut pieces = checked(image, index, source);
    while let Some(piece) = pieces.next().await {
        entry.write(&piece?)?;
    }
    entry.end()?;
    Ok(image.layers[index].size)
}

/// Writes a layer uncompressed. Returns its size so.
pub(super) async fn uncompressed(
    image: &Image,
    index: usize,
    source: &dyn Source,
    mut entry: Entry<'_>,
) -> Result<u64> {
    let layer = &image.layers[index];
    if layer.compression == Compression::None {
        return stored(image, index, source, entry).await;
    }
    let mut blob = Blob::new(layer, index);
    let mut content = Inflate::new(layer, &mut entry, index)?;
    let mut pieces = source.open(&layer.digest);
    while let Some(piece) = pieces.next().await {
        let piece = blob.take(piece?)?;
        content.take(&piece)?;
    }
    blob.end()?;
    let size = content.end(&image.diff_ids())?;
    entry.end()?;
    Ok(size)
}

/// A blob as it comes.
struct Blob {
    layer: Layer,
    index: usize,
    hasher: Sha256,
    len: u64,
}

impl Blob {
    fn new(layer: &Layer, index: usize) -> Self {
        Self {
            layer: layer.clone(),
            index,
            hasher: Sha256::new(),
            len: 0,
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes> {
        self.hasher.update(&piece);
        self.len += piece.len() as u64;
        match self.len > self.layer.size {
            true => Err(self.wrong_size("more")),
            false => Ok(piece),
        }
    }

    fn end(self) -> Result<()> {
        if self.len != self.layer.size {
            return Err(self.wrong_size("fewer"));
        }
        let found = Digest::of_hash(&self.hasher.finalize());
        if found == self.layer.digest {
            return Ok(());
        }
        Err(refused(format!(
            "the content of blob {} (layer {}) is not what its digest says, but {found}",
            self.layer.digest,
            self.index + 1
        ))
        .hint(DAMAGED))
    }

    fn wrong_size(&self, how: &str) -> Error {
        refused(format!(
            "blob {} (layer {}) has {how} than the {} bytes that the manifest says",
            self.layer.digest,
            self.index + 1,
            self.layer.size
        ))
        .hint(DAMAGED)
    }
}

/// A compressed layer on its way to be a plain tar.
struct Inflate<W: Takes> {
    way: Way<Counted<W>>,
    index: usize,
}

enum Way<W: Write> {
    Gzip(Box<MultiGzDecoder<W>>),
    Zstd(Decoder<'static, W>),
}

impl<W: Takes> Inflate<W> {
    fn new(layer: &Layer, to: W, index: usize) -> Result<Self> {
        let to = Counted {
            to,
            hasher: Sha256::new(),
            len: 0,
            failure: None,
        };
        let way = match layer.compression {
            Compression::Zstd => Way::Zstd(
                Decoder::new(to).map_err(|e| refused("cannot decompress zstd").because(e))?,
            ),
            _ => Way::Gzip(Box::new(MultiGzDecoder::new(to))),
        };
        Ok(Self { way, index })
    }

    fn take(&mut self, piece: &[u8]) -> Result<()> {
        let done = match &mut self.way {
            Way::Gzip(decoder) => decoder.write_all(piece),
            Way::Zstd(decoder) => decoder.write_all(piece),
        };
        done.map_err(|e| self.failure(e))
    }

    /// Compares what came out with the config; returns its size.
    fn end(mut self, diff_ids: &[DiffId]) -> Result<u64> {
        let done = match &mut self.way {
            Way::Gzip(decoder) => decoder.try_finish(),
            Way::Zstd(decoder) => decoder.do_finish(),
        };
        done.map_err(|e| self.failure(e))?;
        let counted = self.counted();
        let (len, hasher) = (counted.len, counted.hasher.clone());
        let found = Digest::of_hash(&hasher.finalize());
        match found == diff_ids[self.index].0 {
            true => Ok(len),
            false => Err(wrong_diff_id(self.index, diff_ids, &found)),
        }
    }

    fn counted(&mut self) -> &mut Counted<W> {
        match &mut self.way {
            Way::Gzip(decoder) => decoder.get_mut(),
            Way::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// Tells a damaged layer from an output that takes no more.
    fn failure(&mut self, e: io::Error) -> Error {
        let index = self.index + 1;
        match self.counted().failure.take() {
            Some(failure) => failure,
            None => refused(format!("layer {index} cannot be decompressed"))
                .because(e)
                .hint(DAMAGED),
        }
    }
}

/// Where a decompressed layer goes: it fails with our own errors.
pub(super) trait Takes {
    fn take(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Takes for io::Sink {
    fn take(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Takes for &mut Entry<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }
}

/// Hashes and counts what passes.
struct Counted<W> {
    to: W,
    hasher: Sha256,
    len: u64,
    failure: Option<Error>,
}

impl<W: Takes> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        match self.to.take(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => {
                self.failure = Some(e);
                Err(io::Error::other("the output failed"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

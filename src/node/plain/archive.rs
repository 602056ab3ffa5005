//! The tar that `ctr images import` reads: an OCI layout with only what the node lacks.
//!
//! Its index comes last, so that a stream that breaks off names nothing. Blobs lie under the name
//! of the run: ctr goes by their content, and two runs do not get in each other's way.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};
use crate::image::pack::INDEX;
use crate::image::{Digest, Document};

/// A tar is made of blocks of so many bytes.
const BLOCK: usize = 512;

/// One file of the tar.
pub(super) struct Member {
    path: String,
    size: u64,
    content: BoxStream<'static, Result<Bytes>>,
}

impl Member {
    /// Makes a file of a blob that comes in pieces.
    pub(super) fn blob(
        run: &str,
        digest: &Digest,
        size: u64,
        content: BoxStream<'static, Result<Bytes>>,
    ) -> Self {
        Self {
            path: format!("{run}/{}", digest.hex()),
            size,
            content,
        }
    }

    /// Makes a file of a document.
    pub(super) fn document(run: &str, document: &Document) -> Self {
        Self::bytes(
            format!("{run}/{}", document.digest.hex()),
            document.bytes.clone(),
        )
    }

    fn bytes(path: String, bytes: Vec<u8>) -> Self {
        Self {
            path,
            size: bytes.len() as u64,
            content: stream::once(async { Ok(Bytes::from(bytes)) }).boxed(),
        }
    }

    fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        let header = match header(&self.path, self.size) {
            Ok(header) => header,
            Err(e) => return stream::once(async { Err(e) }).boxed(),
        };
        let begin = stream::once(async { Ok(header) });
        let surplus = usize::try_from(self.size % BLOCK as u64).unwrap_or_default();
        let padding = (BLOCK - surplus) % BLOCK;
        let end = stream::once(async move { Ok(Bytes::from(vec![0; padding])) });
        begin.chain(self.content).chain(end).boxed()
    }
}

fn header(path: &str, size: u64) -> Result<Bytes> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header
        .set_path(path)
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot write the archive").because(e))?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// Makes an index in which names stand for one document.
pub(super) fn index(names: &[&str], media_type: &str, digest: &str, size: u64) -> Vec<u8> {
    let named = |name: &&str| {
        json!({
            "mediaType": media_type,
            "digest": digest,
            "size": size,
            "annotations": {"io.containerd.image.name": name},
        })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": names.iter().map(named).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

/// Makes the tar. Its first piece is the header of a file that nothing refers to: ctr has a lease
/// when it begins to write that, and nothing of worth has come yet.
pub(super) fn tar(
    run: &str,
    members: Vec<Member>,
    index: Vec<u8>,
) -> BoxStream<'static, Result<Bytes>> {
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    let first = Member::bytes(format!("{run}/first"), vec![0; BLOCK]);
    let mut members: Vec<Member> = std::iter::once(first).chain(members).collect();
    members.push(Member::bytes("index.json".to_owned(), index));
    members.push(Member::bytes("oci-layout".to_owned(), layout.into_bytes()));
    let members = members.into_iter().map(Member::stream);
    let end = stream::once(async { Ok(Bytes::from(vec![0; 2 * BLOCK])) });
    stream::iter(members).flatten().chain(end).boxed()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn the_index_comes_last() {
        let document = Document {
            digest: Digest::of(b"x"),
            media_type: String::new(),
            bytes: vec![7; 513],
        };
        let members = vec![Member::document("run", &document)];
        let index = index(&["a:1", "b:1"], "m", "sha256:1", 5);
        let pieces: Vec<Bytes> = tar("run", members, index).try_collect().await.unwrap();
        assert_eq!(pieces[0].len(), BLOCK);
        let bytes = pieces.concat();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.push((entry.path().unwrap().display().to_string(), content));
        }
        let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let blob = format!("run/{}", document.digest.hex());
        assert_eq!(
            paths,
            ["run/first", blob.as_str(), "index.json", "oci-layout"]
        );
        assert_eq!(files[1].1, document.bytes);
        let index: serde_json::Value = serde_json::from_slice(&files[2].1).unwrap();
        let name = &index["manifests"][1]["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "b:1");
    }
}

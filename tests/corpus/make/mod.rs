//! Makes archives and folders with images, sound ones and broken ones, out of nothing.
//!
//! The same for the tests and for the seeds of fuzzing. Layers are made of a salt, so that a node
//! has them or has them not, as the caller wants.

pub mod broken;
pub mod member;
pub mod sound;

use kindlift::image::Digest;
use serde_json::{Value, json};

pub const RAW: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What kindlift is given.
pub enum Input {
    /// A file, in pieces.
    File(Vec<Piece>),
    /// A folder.
    Folder(Vec<(String, Node)>),
}

pub enum Piece {
    Bytes(Vec<u8>),
    /// So many zeros, which take no room on a disk.
    Hole(u64),
}

/// What lies in a folder.
pub enum Node {
    File(Vec<u8>),
    Folder,
    Pipe,
}

/// One layer, as an archive holds it.
#[derive(Clone)]
pub struct Layer {
    pub media_type: &'static str,
    pub blob: Vec<u8>,
    pub diff_id: String,
}

impl Layer {
    /// A layer with one file in it, stored as the media type says.
    pub fn new(media_type: &'static str, salt: &str, n: usize) -> Self {
        let content = format!("{salt} {n}\n").repeat(40 + n);
        let tar = member::whole(&[member::file(&format!("file-{n}"), content.as_bytes())]);
        Self::of(media_type, &tar)
    }

    /// A layer of these bytes, uncompressed.
    pub fn of(media_type: &'static str, tar: &[u8]) -> Self {
        let blob = match media_type {
            t if t.ends_with("gzip") => gzip(tar),
            t if t.ends_with("zstd") => zstd(tar),
            _ => tar.to_vec(),
        };
        Self {
            media_type,
            blob,
            diff_id: Digest::of(tar).to_string(),
        }
    }
}

/// An image to be written in one form or another.
pub struct Image {
    pub name: String,
    pub layers: Vec<Layer>,
    pub config: Value,
    /// Changes to what is made of it, before it is digested.
    pub edit_manifest: Box<dyn Fn(&mut Value)>,
    /// Changes to the manifest's descriptor in the index.
    pub edit_descriptor: Box<dyn Fn(&mut Value)>,
}

impl Image {
    /// An image of three layers that are stored as the media type says.
    pub fn new(name: &str, salt: &str, media_type: &'static str) -> Self {
        let layers = (1..=3).map(|n| Layer::new(media_type, salt, n)).collect();
        Self::of(name, layers)
    }

    pub fn of(name: &str, layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": ["/nothing"], "Labels": {"test": "corpus"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        Self {
            name: name.to_owned(),
            layers,
            config,
            edit_manifest: Box::new(|_| ()),
            edit_descriptor: Box::new(|_| ()),
        }
    }

    pub fn config(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.config);
        self
    }

    pub fn manifest(mut self, edit: impl Fn(&mut Value) + 'static) -> Self {
        self.edit_manifest = Box::new(edit);
        self
    }

    pub fn descriptor(mut self, edit: impl Fn(&mut Value) + 'static) -> Self {
        self.edit_descriptor = Box::new(edit);
        self
    }

    /// Writes its documents and layers as blobs, and returns the manifest's descriptor.
    pub fn blobs(&self, files: &mut Files) -> Value {
        let config = files.blob(CONFIG, &self.config);
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| files.raw_blob(layer.media_type, &layer.blob))
            .collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": layers});
        (self.edit_manifest)(&mut manifest);
        let mut descriptor = files.blob(MANIFEST, &manifest);
        if !self.name.is_empty() {
            descriptor["annotations"] = json!({"io.containerd.image.name": self.name});
        }
        (self.edit_descriptor)(&mut descriptor);
        descriptor
    }

    /// An OCI layout.
    pub fn layout(&self) -> Files {
        let mut files = Files::default();
        let descriptor = self.blobs(&mut files);
        files.finish(&[descriptor]);
        files
    }

    /// What `docker save` wrote before Docker 25.
    pub fn docker(&self) -> Files {
        let mut files = Files::default();
        let config = self.config.to_string().into_bytes();
        let config_path = format!("{}.json", Digest::of(&config).hex());
        files.add(&config_path, config);
        let mut paths: Vec<String> = Vec::new();
        for layer in &self.layers {
            let path = format!(
                "{}/layer.tar",
                Digest::of(format!("{} {}", layer.diff_id, paths.len()).as_bytes()).hex()
            );
            files.add(&path, layer.blob.clone());
            paths.push(path);
        }
        let name = self.name.trim_start_matches("docker.io/");
        let list = json!([{"Config": config_path, "RepoTags": [name], "Layers": paths}]);
        files.add("manifest.json", list.to_string().into_bytes());
        files
    }
}

/// The files of an archive or a folder, in order.
#[derive(Default, Clone)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) {
        self.0.push((path.to_owned(), bytes));
    }

    /// Adds a document, and returns its descriptor.
    pub fn blob(&mut self, media_type: &str, document: &Value) -> Value {
        self.raw_blob(media_type, document.to_string().as_bytes())
    }

    pub fn raw_blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let path = format!("blobs/sha256/{}", digest.hex());
        if !self.0.iter().any(|(other, _)| *other == path) {
            self.add(&path, bytes.to_vec());
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds what makes an OCI layout of blobs.
    pub fn finish(&mut self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.add("index.json", index.to_string().into_bytes());
        self.add("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec());
    }

    /// The bytes of a file.
    pub fn get(&mut self, path: &str) -> &mut Vec<u8> {
        let found = self.0.iter_mut().find(|(other, _)| other == path);
        &mut found.unwrap_or_else(|| panic!("no {path}")).1
    }

    pub fn remove(&mut self, path: &str) {
        self.0.retain(|(other, _)| other != path);
    }

    pub fn members(&self) -> Vec<Vec<u8>> {
        self.0
            .iter()
            .map(|(path, bytes)| member::file(path, bytes))
            .collect()
    }

    pub fn tar(&self) -> Vec<u8> {
        member::whole(&self.members())
    }

    pub fn folder(self) -> Input {
        Input::Folder(
            self.0
                .into_iter()
                .map(|(path, bytes)| (path, Node::File(bytes)))
                .collect(),
        )
    }
}

impl Input {
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self::File(vec![Piece::Bytes(bytes)])
    }

    /// Writes it at a path. Nothing may be there.
    pub fn write(&self, path: &std::path::Path) {
        use std::io::{Seek, Write};
        match self {
            Self::File(pieces) => {
                let mut file = std::fs::File::create_new(path).unwrap();
                for piece in pieces {
                    match piece {
                        Piece::Bytes(bytes) => file.write_all(bytes).unwrap(),
                        Piece::Hole(len) => {
                            let end = file.stream_position().unwrap() + len;
                            file.set_len(end).unwrap();
                            file.seek(std::io::SeekFrom::Start(end)).unwrap();
                        }
                    }
                }
            }
            Self::Folder(nodes) => {
                std::fs::create_dir(path).unwrap();
                for (name, node) in nodes {
                    let at = path.join(name);
                    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                    match node {
                        Node::File(bytes) => std::fs::write(at, bytes).unwrap(),
                        Node::Folder => std::fs::create_dir(at).unwrap(),
                        Node::Pipe => rustix::fs::mknodat(
                            rustix::fs::CWD,
                            &at,
                            rustix::fs::FileType::Fifo,
                            rustix::fs::Mode::RUSR,
                            0,
                        )
                        .unwrap(),
                    }
                }
            }
        }
    }
}

/// The architecture of the machine that the nodes run on, in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Bytes in gzip's format, stored.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let chunks: Vec<&[u8]> = bytes.chunks(0xffff).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        let len = u16::try_from(chunk.len()).unwrap();
        out.push(u8::from(i + 1 == chunks.len()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(*chunk);
    }
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => (crc >> 1) ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    })
}

/// Bytes in zstd's format, stored (RFC 8878: one segment, its size in four bytes, raw blocks).
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 16).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        let last = u32::from(i + 1 == chunks.len());
        let header = u32::try_from(chunk.len()).unwrap() << 3 | last;
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(*chunk);
    }
    out
}

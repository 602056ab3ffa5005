//! Where an archive's files lie: the members of a tar, walked once for its headers, or a folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::image::refused;
use crate::source::spool::Extent;

/// More files than any image has blobs.
const MAX_ENTRIES: usize = 100_000;

/// Where the files are.
pub(super) enum Store {
    /// The members of a tar, by path.
    Tar {
        files: HashMap<String, Extent>,
        links: HashMap<String, String>,
    },
    /// A folder.
    Folder(PathBuf),
}

impl Store {
    pub(super) fn index(file: &Arc<File>) -> Result<Self> {
        let damaged = |e: std::io::Error| refused("the archive is damaged").because(e);
        let mut handle = file.try_clone().map_err(damaged)?;
        handle.seek(SeekFrom::Start(0)).map_err(damaged)?;
        let length = handle.metadata().map_err(damaged)?.len();
        refuse_compressed(&mut handle)?;
        let mut archive = tar::Archive::new(BufReader::new(handle));
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let path = clean(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let extent = Extent {
                    file: Arc::clone(file),
                    offset: entry.raw_file_position(),
                    len: entry.size(),
                };
                let end = extent.offset.checked_add(extent.len);
                if end.is_none_or(|end| end > length) {
                    return Err(refused(format!("the archive ends in the middle of {path}")));
                }
                if files.insert(path.clone(), extent).is_some() {
                    return Err(refused(format!("the archive has {path} twice")));
                }
            } else if kind.is_symlink() || kind.is_hard_link() {
                if let Some(target) = entry.link_name_bytes() {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    links.insert(path, target);
                }
            } else if !kind.is_dir() && !kind.is_pax_global_extensions() {
                return Err(refused(format!(
                    "{path} in the archive is neither file nor folder"
                )));
            }
            if files.len() + links.len() > MAX_ENTRIES {
                return Err(refused(format!(
                    "the archive has more than {MAX_ENTRIES} members"
                )));
            }
        }
        Ok(Self::Tar { files, links })
    }

    pub(super) fn has(&self, path: &str) -> bool {
        match self {
            Self::Tar { files, .. } => files.contains_key(path),
            Self::Folder(folder) => folder.join(path).is_file(),
        }
    }

    pub(super) fn find(&self, path: &str) -> Result<Extent> {
        let missing = || refused(format!("the archive lacks {path}"));
        match self {
            Self::Tar { files, links } => {
                let found = files
                    .get(path)
                    .or_else(|| files.get(&resolve(links, path)?));
                found.cloned().ok_or_else(missing)
            }
            Self::Folder(folder) => {
                let open = || {
                    let file = File::open(folder.join(path))?;
                    let metadata = file.metadata()?;
                    if !metadata.is_file() {
                        return Err(std::io::Error::other("it is no file"));
                    }
                    Ok((file, metadata.len()))
                };
                let (file, len) = open().map_err(|e| missing().because(e))?;
                Ok(Extent {
                    file: Arc::new(file),
                    offset: 0,
                    len,
                })
            }
        }
    }

    pub(super) fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let extent = self.find(path)?;
        if extent.len > limit {
            return Err(refused(format!(
                "{path} has {} bytes, more than {limit}",
                extent.len
            )));
        }
        let len = usize::try_from(extent.len).expect("the limit fits in memory");
        let mut bytes = vec![0; len];
        extent
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| refused(format!("cannot read {path}")).because(e))?;
        Ok(bytes)
    }
}

/// Random access needs an uncompressed tar.
fn refuse_compressed(file: &mut File) -> Result<()> {
    let mut magic = [0; 4];
    let read = file.read(&mut magic).unwrap_or(0);
    file.seek(SeekFrom::Start(0))
        .map_err(|e| refused("the archive cannot be read").because(e))?;
    let tool = match &magic[..read] {
        [0x1f, 0x8b, ..] => "zcat",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstdcat",
        [b'B', b'Z', b'h', _] => "bzcat",
        [0xfd, b'7', b'z', b'X'] => "xzcat",
        _ => return Ok(()),
    };
    Err(
        refused("the archive is compressed as a whole").hint(format!(
            "decompress it on the way: `{tool} FILE | kindlift load -`"
        )),
    )
}

/// Follows the link that Docker before 25 writes for a layer that occurs twice.
fn resolve(links: &HashMap<String, String>, path: &str) -> Option<String> {
    let target = links.get(path)?;
    let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(match target.strip_prefix("../") {
        Some(up) => match beside.rsplit_once('/') {
            Some((above, _)) => format!("{above}/{up}"),
            None => up.to_owned(),
        },
        None => target.clone(),
    })
}

/// Refuses absolute paths and `..`, and drops `./` and the final slash.
fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path)
        .map_err(|_| refused("the archive has a path that is not UTF-8"))?;
    let text = text.trim_start_matches("./").trim_end_matches('/');
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(refused(format!(
            "the archive's path {text:?} leads outside"
        )));
    }
    Ok(text.to_owned())
}

//! Where members go: a tar or a folder.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A tar that can be sought in, or a folder.
pub enum Output {
    /// A tar, and the header of the member that is being written.
    Tar(Box<(tar::Builder<File>, tar::Header)>),
    /// A folder, to be filled.
    Folder(PathBuf),
}

/// A member that is being written.
pub(super) enum Entry<'a> {
    Tar(tar::EntryWriter<'a>),
    File(BufWriter<File>),
}

impl Output {
    /// Writes a tar into an empty file.
    pub fn tar(file: File) -> Self {
        let builder = tar::Builder::new(file);
        Self::Tar(Box::new((builder, tar::Header::new_ustar())))
    }

    pub(super) fn begin(&mut self, path: &str) -> Result<Entry<'_>> {
        match self {
            Self::Tar(tar) => {
                let (builder, header) = &mut **tar;
                *header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                header.set_size(0);
                // The size is put in afterwards: that of a decompressed layer is not known before.
                let entry = builder.append_writer(header, path);
                entry.map(Entry::Tar).map_err(failed)
            }
            Self::Folder(folder) => {
                let path = folder.join(Path::new(path));
                let create = || {
                    if let Some(above) = path.parent() {
                        std::fs::create_dir_all(above)?;
                    }
                    File::create_new(&path)
                };
                let file = create().map_err(failed)?;
                Ok(Entry::File(BufWriter::new(file)))
            }
        }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        match self {
            Self::Tar(tar) => tar.0.finish().map_err(failed),
            Self::Folder(_) => Ok(()),
        }
    }
}

impl Entry<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match self {
            Self::Tar(entry) => entry.write_all(bytes),
            Self::File(file) => file.write_all(bytes),
        };
        written.map_err(failed)
    }

    /// Writes all of a member. Returns its size.
    pub(super) fn document(mut self, bytes: &[u8]) -> Result<u64> {
        self.write(bytes)?;
        self.end()?;
        Ok(bytes.len() as u64)
    }

    pub(super) fn end(self) -> Result<()> {
        match self {
            Self::Tar(entry) => entry.finish().map_err(failed),
            Self::File(mut file) => file.flush().map_err(failed),
        }
    }
}

fn failed(e: std::io::Error) -> Error {
    let error = Error::new(ErrorKind::Internal, "cannot write the image");
    let full = e.kind() == std::io::ErrorKind::StorageFull;
    let error = error.because(e);
    match full {
        true => error.hint("make room, or write it somewhere else"),
        false => error,
    }
}

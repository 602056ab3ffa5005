//! The members of a tar, walked once for its headers.
//!
//! Only what an archive of images needs is taken: files, folders, and the links that Docker before
//! 25 writes. All else is refused, and so is a tar that does not end as one.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;
use std::sync::Arc;

use super::mistaken::CUT_SHORT;
use super::store::{NO_TOOL, clean};
use crate::error::{Error, Result};
use crate::image::{refused, tame};
use crate::source::spool::Extent;

/// More files than any image has blobs.
const MAX_ENTRIES: usize = 100_000;
/// The most bytes that all paths and links may have together: they are held in memory.
const MAX_NAMES: usize = 8 << 20;
/// The most bytes that describe one member: its header, long names and PAX records.
const MAX_HEADER: u64 = 256 << 10;
/// Everything in a tar lies in blocks of this many bytes.
const BLOCK: u64 = 512;

/// The files and links of a tar, by path.
#[derive(Default)]
pub(super) struct Members {
    pub(super) files: HashMap<String, Extent>,
    pub(super) links: HashMap<String, String>,
    /// Bytes of all names.
    names: usize,
    /// The last one, for messages.
    last: Option<String>,
    /// Where the header after it lies.
    end: u64,
}

impl Members {
    /// Walks a tar of so many bytes.
    ///
    /// # Errors
    /// Image error, saying where it is damaged or what does not belong into it.
    pub(super) fn of(file: &Arc<File>, length: u64) -> Result<Self> {
        let mut members = Self::default();
        let mut handle = file.try_clone().map_err(unreadable)?;
        handle.rewind().map_err(unreadable)?;
        let left = Rc::new(Cell::new(0));
        let mut archive = tar::Archive::new(Meter {
            inner: BufReader::new(handle),
            left: Rc::clone(&left),
        });
        left.set(MAX_HEADER);
        for entry in archive.entries_with_seek().map_err(unreadable)? {
            let entry = entry.map_err(|e| members.damaged(e))?;
            members.add(entry, file, length)?;
            left.set(MAX_HEADER);
        }
        left.set(u64::MAX);
        let mut rest = archive.into_inner();
        // The block of zeros that ended the walk has been read, if there is one.
        let position = rest.stream_position().map_err(unreadable)?;
        if position < members.end + BLOCK || position > length {
            return Err(refused(format!(
                "the archive stops behind {}, without the zeros that end a tar",
                members.last()
            ))
            .hint(CUT_SHORT));
        }
        padding(&mut rest)?;
        Ok(members)
    }

    fn add(
        &mut self,
        mut entry: tar::Entry<'_, impl Read>,
        file: &Arc<File>,
        length: u64,
    ) -> Result<()> {
        let path = clean(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() || (kind.is_file() && is_sparse(&mut entry)?) {
            return Err(refused(format!("{path} in the archive is a sparse file"))
                .hint("pack it without --sparse"));
        }
        let extent = Extent {
            file: Arc::clone(file),
            offset: entry.raw_file_position(),
            len: entry.size(),
        };
        let end = extent.offset.checked_add(extent.len);
        let Some(end) = end.filter(|end| *end <= length) else {
            return Err(
                refused(format!("the archive ends in the middle of {path}")).hint(CUT_SHORT)
            );
        };
        self.end = end.next_multiple_of(BLOCK);
        self.names += path.len();
        if kind.is_file() {
            if self.files.insert(path.clone(), extent).is_some() || self.links.contains_key(&path) {
                return Err(twice(&path));
            }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            self.names += target.len();
            if self.links.insert(path.clone(), target).is_some() || self.files.contains_key(&path) {
                return Err(twice(&path));
            }
        } else if !kind.is_dir() && !kind.is_pax_global_extensions() {
            return Err(refused(format!(
                "{path} in the archive is neither file nor folder, but of type {:?}",
                char::from(kind.as_byte())
            ))
            .hint(NO_TOOL));
        }
        self.last = Some(path);
        if self.files.len() + self.links.len() > MAX_ENTRIES || self.names > MAX_NAMES {
            return Err(refused(format!(
                "the archive has more than {MAX_ENTRIES} members, or {MAX_NAMES} bytes of names"
            ))
            .hint("it is no archive of images"));
        }
        Ok(())
    }

    /// Follows the link that Docker before 25 writes for a layer that occurs twice.
    pub(super) fn behind_link(&self, path: &str) -> Option<&Extent> {
        let target = self.links.get(path)?;
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        match target.strip_prefix("../") {
            Some(up) => match beside.rsplit_once('/') {
                Some((above, _)) => self.files.get(&format!("{above}/{up}")),
                None => self.files.get(up),
            },
            None => self.files.get(target),
        }
    }

    fn last(&self) -> &str {
        self.last.as_deref().unwrap_or("nothing")
    }

    fn damaged(&self, why: io::Error) -> Error {
        let error = match &self.last {
            Some(last) => refused(format!("the archive is damaged behind {last}")),
            None => refused("this is no tar archive"),
        };
        // The tar crate quotes what it does not understand.
        error.because(tame(&why.to_string())).hint(CUT_SHORT)
    }
}

fn unreadable(why: io::Error) -> Error {
    refused("the archive cannot be read").because(tame(&why.to_string()))
}

fn twice(path: &str) -> Error {
    refused(format!("the archive has {path} twice"))
        .hint("which of the two counts depends on who reads it: save it again, into a new file")
}

/// Tells whether PAX records make a sparse file of what looks like any other.
fn is_sparse(entry: &mut tar::Entry<'_, impl Read>) -> Result<bool> {
    let Some(records) = entry.pax_extensions().map_err(unreadable)? else {
        return Ok(false);
    };
    for record in records {
        let record = record.map_err(unreadable)?;
        if record.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Requires that only zeros follow the end of a tar: tar pads to whole records.
fn padding(rest: &mut impl Read) -> Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        match rest.read(&mut chunk).map_err(unreadable)? {
            0 => return Ok(()),
            read if chunk[..read].iter().all(|byte| *byte == 0) => {}
            _ => {
                return Err(refused("something else follows the end of the archive")
                    .hint("two outputs went into one file: save it again, into a new file"));
            }
        }
    }
}

/// Reads so many bytes and no more: the tar crate holds names and PAX records of any length.
struct Meter<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other(format!(
                "the description of one member takes more than {MAX_HEADER} bytes"
            )));
        }
        let most = usize::try_from(self.left.get()).map_or(into.len(), |left| left.min(into.len()));
        let read = self.inner.read(&mut into[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Meter<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A tar of empty files with these names, and what comes behind its end.
    fn members(names: &[&str], end: &[u8]) -> Result<Members> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            tar.append_data(&mut header, name, io::empty()).unwrap();
        }
        let mut bytes = tar.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(end);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        Members::of(&Arc::new(file), bytes.len() as u64)
    }

    #[test]
    fn an_end_is_a_block_of_zeros_and_then_nothing_else() {
        for zeros in [512, 1024, 10_240, 700] {
            let found = members(&["a", "./b"], &vec![0; zeros]).unwrap();
            assert!(found.files.contains_key("a") && found.files.contains_key("b"));
        }
        for (end, why) in [
            (vec![], "behind b, without the zeros"),
            (vec![0; 511], "damaged behind b"),
            ([vec![0; 512], vec![1]].concat(), "something else follows"),
        ] {
            let error = members(&["a", "b"], &end).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_printed_as_it_is() {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[148..156].copy_from_slice(b"1\x1b[2J\n\n\n");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(header.as_bytes()).unwrap();
        let error = Members::of(&Arc::new(file), 512).err().unwrap();
        let causes = error.causes().concat();
        assert!(
            causes.contains("not a number") && !causes.contains(char::is_control),
            "{causes:?}"
        );
    }

    #[test]
    fn descriptions_are_read_to_a_limit_each_and_all_together() {
        let long = |n: usize| "x/".repeat(n / 2);
        members(&[&long(200_000), &long(200_002)], &[0; 512]).unwrap();
        let error = members(&[&long(300_000)], &[0; 512]).err().unwrap();
        assert!(
            error.causes()[0].contains("more than 262144 bytes"),
            "{error:?}"
        );
        let names: Vec<String> = (0..45).map(|n| long(200_000 + 2 * n)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let error = members(&names, &[0; 512]).err().unwrap().to_string();
        assert!(error.contains("bytes of names"), "{error}");
    }
}

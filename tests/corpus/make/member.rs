//! Tars by the member: what no tar program would write can be written too.

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// A header for so many bytes.
pub fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    set_path(&mut header, path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

/// Puts any bytes where the path is; the header's checksum is made again.
pub fn set_path(header: &mut Header, path: &[u8]) {
    let name = &mut header.as_mut_bytes()[..100];
    name.fill(0);
    name[..path.len()].copy_from_slice(path);
    header.set_cksum();
}

/// Header, bytes, and zeros up to the next block.
pub fn member(header: &Header, bytes: &[u8]) -> Vec<u8> {
    let mut out = header.as_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

/// A file.
pub fn file(path: &str, bytes: &[u8]) -> Vec<u8> {
    member(&header(path, EntryType::Regular, bytes.len() as u64), bytes)
}

/// Something without bytes: a folder, a device, a link.
pub fn empty(path: &str, kind: EntryType, target: &str) -> Vec<u8> {
    let mut header = header(path, kind, 0);
    header.set_link_name_literal(target).unwrap();
    if kind.is_character_special() || kind.is_block_special() {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    member(&header, b"")
}

/// A record of PAX for the next member.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    let record = format!("{len}{rest}");
    let header = header("PaxHeaders/x", EntryType::XHeader, record.len() as u64);
    member(&header, record.as_bytes())
}

/// GNU's long name for the next member.
pub fn long_name(name: &[u8]) -> Vec<u8> {
    let header = header(
        "././@LongLink",
        EntryType::GNULongName,
        name.len() as u64 + 1,
    );
    member(&header, &[name, b"\0"].concat())
}

/// The members and the two blocks that end a tar.
pub fn whole(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = members.concat();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

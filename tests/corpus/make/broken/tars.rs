//! Files that are no tar, or a tar that no tool for images writes.

use tar::EntryType;

use super::super::member;
use super::super::{Image, Input, Piece, RAW, gzip, zstd};
use super::{Kind, kind, tar};

pub(super) fn all(salt: &str, image: &str) -> Vec<Kind> {
    let files = Image::new(image, salt, RAW).layout();
    let sound = files.tar();
    let members = files.members();
    let with = |first: Vec<Vec<u8>>| member::whole(&[first, files.members()].concat());
    // Where the second member begins.
    let second = members[0].len();
    let path = files.0[0].0.clone();
    let mut kinds = mistaken(&sound);
    kinds.extend([
        tar("cut inside a header", "the archive is damaged behind blobs/sha256/", sound[..second + 100].to_vec()),
        tar("cut inside a file", "the archive ends in the middle of blobs/sha256/", sound[..second + 600].to_vec()),
        tar("cut between files", "without the zeros that end a tar", members.concat()),
        tar(
            "cut, and the engine says why",
            "the engine broke off while it wrote the archive: no space left on device",
            [&sound[..second + 600], b"{\"errorDetail\":{\"message\":\"no space left on device\"},\"error\":\"no space left on device\"}\r\n"].concat(),
        ),
        tar(
            "whole, and the engine complains",
            "the engine broke off while it wrote the archive: gone",
            [&sound[..], b"{\"message\":\"gone\"}\n"].concat(),
        ),
        tar("two in one file", "something else follows the end", [&sound[..], &sound[..]].concat()),
        tar("something behind the end", "something else follows the end", [&sound[..], b"Saved.\n"].concat()),
        tar("a wrong checksum", "archive header checksum mismatch", changed(&sound, second + 110, b'7')),
        tar("a size that is no number", "numeric field was not a number", odd_size(&members, b"12345x78\0")),
        // GNU's binary form, for 2^63.
        tar("a size beyond all disks", "the archive ends in the middle of", odd_size(&members, &[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        tar("a size of PAX beyond all disks", "size overflow", with(vec![member::pax("size", "18446744073709551615"), member::file("x", b"x")])),
        tar("a size of PAX beyond the file", "the archive ends in the middle of big", with(vec![member::pax("size", "1000000000000"), member::file("big", b"x")])),
        kind("PAX records without end", "the description of one member takes more than", endless(EntryType::XHeader, &sound)),
        kind("a name without end", "the description of one member takes more than", endless(EntryType::GNULongName, &sound)),
        tar("too many long names", "bytes of names", with((0..45).map(|n| [member::long_name(format!("{n}{}", "x".repeat(200_000)).as_bytes()), member::file("x", b"")].concat()).collect())),
        tar("a long name for nothing", "damaged behind oci-layout", member::whole(&[files.members(), vec![member::long_name(b"x")]].concat())),
        tar("two long names for one file", "two long name entries", with(vec![member::long_name(b"x"), member::long_name(b"y"), member::file("z", b"")])),
        tar("a sparse file of GNU", "is a sparse file", with(vec![sparse()])),
        tar("a sparse file of PAX", "is a sparse file", with(vec![member::pax("GNU.sparse.major", "1"), member::file("GNUSparseFile.0/blob", b"1\n0\n1\n")])),
        tar("a character device", "is neither file nor folder, but of type '3'", with(vec![member::empty("blobs/sha256/null", EntryType::Char, "")])),
        tar("a block device", "is neither file nor folder, but of type '4'", with(vec![member::empty("blobs/sha256/sda", EntryType::Block, "")])),
        tar("a pipe", "is neither file nor folder, but of type '6'", with(vec![member::empty("blobs/sha256/pipe", EntryType::Fifo, "")])),
        tar("a type that nobody knows", "is neither file nor folder, but of type 'Z'", with(vec![member::empty("x", EntryType::new(b'Z'), "")])),
        tar("a path that leads up", "\"../../etc/cron.d/x\" leads out of the archive", with(vec![named(b"../../etc/cron.d/x")])),
        tar("a path that leads up in the middle", "leads out of the archive", with(vec![named(b"blobs/../../x")])),
        tar("an absolute path", "\"/etc/passwd\" leads out of the archive", with(vec![named(b"/etc/passwd")])),
        tar("an absolute path of PAX", "leads out of the archive", with(vec![member::pax("path", "/etc/passwd"), member::file("x", b"")])),
        tar("a path that is not UTF-8", "is not UTF-8", with(vec![named(b"blobs/\xff\xfe")])),
        tar("a path that moves the cursor", "has control characters", with(vec![named(b"a\x1b[2Jb")])),
        tar("a file twice", "the archive has index.json twice", with(vec![member::file("index.json", b"{}")])),
        tar("a file and a link of one name", "the archive has index.json twice", with(vec![member::empty("index.json", EntryType::Symlink, "x")])),
        tar("a symlink as a blob", "is a link, not a file", linked(&path, EntryType::Symlink, &members)),
        tar("a hard link as a blob", "is a link, not a file", linked(&path, EntryType::Link, &members)),
    ]);
    kinds
}

/// What people hand over in place of an archive.
fn mistaken(sound: &[u8]) -> Vec<Kind> {
    let rootfs = member::whole(&[
        member::empty("etc/", EntryType::Directory, ""),
        member::file("etc/hostname", b"x"),
        member::file("bin/sh", b"x"),
    ]);
    vec![
        tar("nothing", "the archive is empty", Vec::new()),
        tar(
            "text",
            "this is no tar archive",
            b"this is no tar".repeat(100),
        ),
        tar(
            "less than a header",
            "this is no tar archive",
            b"x".to_vec(),
        ),
        tar(
            "a web page",
            "this is a web page, not an archive",
            b"\n<!DOCTYPE html><html><body>Sign in</body></html>".to_vec(),
        ),
        tar(
            "Docker's error",
            "this is an engine's error, not an archive: reference does not exist",
            b"{\"message\":\"reference does not exist\"}\n".to_vec(),
        ),
        tar(
            "Podman's error",
            "not an archive: x: image not known",
            b"{\"cause\":\"image not known\",\"message\":\"x: image not known\",\"response\":404}"
                .to_vec(),
        ),
        tar(
            "compressed by gzip",
            "`zcat FILE | kindlift load -`",
            gzip(sound),
        ),
        tar(
            "compressed by zstd",
            "`zstdcat FILE | kindlift load -`",
            zstd(sound),
        ),
        tar(
            "compressed by bzip2",
            "`bzcat FILE | kindlift load -`",
            b"BZh91AY&SY".to_vec(),
        ),
        tar(
            "compressed by xz",
            "`xzcat FILE | kindlift load -`",
            b"\xfd7zXZ\0\0\x04".to_vec(),
        ),
        tar(
            "an empty tar",
            "neither index.json nor manifest.json",
            vec![0; 10_240],
        ),
        tar(
            "some other tar",
            "neither index.json nor manifest.json",
            member::whole(&[member::file("notes.txt", b"x")]),
        ),
        tar(
            "what docker export writes",
            "as `docker export` writes them",
            rootfs,
        ),
        tar(
            "as Docker before 1.10",
            "Docker before 1.10 wrote it",
            member::whole(&[member::file("repositories", b"{}")]),
        ),
    ]
}

fn changed(sound: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut changed = sound.to_vec();
    changed[at] = byte;
    changed
}

/// Puts other bytes where the second member's size is.
fn odd_size(members: &[Vec<u8>], size: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&members[1][..512]);
    header.as_mut_bytes()[124..124 + size.len()].copy_from_slice(size);
    header.set_cksum();
    let mut members = members.to_vec();
    members[1][..512].copy_from_slice(header.as_bytes());
    member::whole(&members)
}

fn named(path: &[u8]) -> Vec<u8> {
    let mut header = member::header("x", EntryType::Regular, 1);
    member::set_path(&mut header, path);
    member::member(&header, b"x")
}

/// A description of 300 MB for the first member.
fn endless(kind: EntryType, sound: &[u8]) -> Input {
    const SIZE: u64 = 300 << 20;
    let header = member::header("././@LongLink", kind, SIZE);
    Input::File(vec![
        Piece::Bytes(header.as_bytes().to_vec()),
        Piece::Hole(SIZE),
        Piece::Bytes(sound.to_vec()),
    ])
}

/// A file of 1 MB that begins with a hole.
fn sparse() -> Vec<u8> {
    let mut header = member::header("blobs/sha256/sparse", EntryType::GNUSparse, 512);
    let gnu = header.as_gnu_mut().unwrap();
    let octal =
        |field: &mut [u8; 12], n: u64| field[..11].copy_from_slice(format!("{n:011o}").as_bytes());
    octal(&mut gnu.sparse[0].offset, (1 << 20) - 512);
    octal(&mut gnu.sparse[0].numbytes, 512);
    octal(&mut gnu.realsize, 1 << 20);
    header.set_cksum();
    member::member(&header, &[1; 512])
}

/// Moves the first file away and puts a link in its place.
fn linked(path: &str, kind: EntryType, members: &[Vec<u8>]) -> Vec<u8> {
    let mut members = members.to_vec();
    let size = u64::from_str_radix(std::str::from_utf8(&members[0][124..135]).unwrap(), 8).unwrap();
    let bytes = members[0][512..512 + usize::try_from(size).unwrap()].to_vec();
    members[0] = member::file("elsewhere", &bytes);
    members.push(member::empty(path, kind, "elsewhere"));
    member::whole(&members)
}

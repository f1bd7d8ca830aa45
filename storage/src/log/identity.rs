//! What a data folder says of itself: the file `MILLPOND`, made once and never changed.
//!
//! It is text, so that whoever finds the folder knows what it is. Bytes: `FORMAT.md`, Identity.

use std::io;

use crate::disk::Disk;
use crate::disk::local::{IDENTITY_FILE, LOCK_FILE};
use crate::error::OpenError;
use crate::format::checksum::crc32c;
use crate::log::Settings;

/// Version of the folder as a whole.
pub(crate) const FORMAT: u32 = 1;

/// How the name of a file ends that is not in its place yet.
pub(crate) const UNFINISHED: &str = ".new";
const NEW_IDENTITY_FILE: &str = "MILLPOND.new";

fn disk_error(what: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.to_owned();
    move |source| OpenError::Disk { what, source }
}

/// Checks that the folder was made with these settings, or makes it.
pub(crate) fn check_or_make(disk: &dyn Disk, settings: &Settings) -> Result<(), OpenError> {
    match read_file(disk, IDENTITY_FILE) {
        Ok(bytes) => check(&bytes, settings),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(disk, settings),
        Err(error) => Err(disk_error("read the file MILLPOND")(error)),
    }
}

/// The whole of a small file.
pub(crate) fn read_file(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Puts a small file in its place at once: readers find the old one or the new one, whole. A failure leaves nothing behind;
/// a crash may leave the new one under its name with `.new`.
pub(crate) fn replace_file(
    disk: &dyn Disk,
    folder: &str,
    path: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let new_path = format!("{path}{UNFINISHED}");
    match disk.remove(&new_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let replaced = write_synced(disk, &new_path, bytes).and_then(|()| disk.rename(&new_path, path));
    if let Err(error) = replaced {
        // What was written so far takes room, which may be the very thing that is missing.
        let _ = disk.remove(&new_path);
        return Err(error);
    }
    disk.sync_folder(folder)
}

fn write_synced(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(path)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

fn make(disk: &dyn Disk, settings: &Settings) -> Result<(), OpenError> {
    let entries = disk.list("").map_err(disk_error("list the data folder"))?;
    let is_foreign = |name: &String| {
        let is_empty_folder = || disk.list(name).is_ok_and(|inside| inside.is_empty());
        name != LOCK_FILE && name != NEW_IDENTITY_FILE && !is_empty_folder()
    };
    if entries.iter().any(is_foreign) {
        return Err(OpenError::NotOurs {
            folder: "the data folder".to_owned(),
        });
    }
    let text = text(settings);
    replace_file(disk, "", IDENTITY_FILE, text.as_bytes())
        .map_err(disk_error("write the file MILLPOND"))
}

fn text(settings: &Settings) -> String {
    let (shards, wals) = (settings.shards, settings.wals);
    let text = format!("Millpond data folder\nformat {FORMAT}\nshards {shards}\nwals {wals}\n");
    let checksum = crc32c(&[text.as_bytes()]);
    format!("{text}crc32c {checksum:08x}\n")
}

/// What a folder was made with.
pub(crate) struct Stored {
    pub(crate) shards: u64,
    pub(crate) wals: u16,
}

/// What a folder says of itself, without comparing it with anything.
pub(crate) fn stored(disk: &dyn Disk) -> Result<Stored, OpenError> {
    match read_file(disk, IDENTITY_FILE) {
        Ok(bytes) => decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::NotOurs {
            folder: "the folder without a file MILLPOND".to_owned(),
        }),
        Err(error) => Err(disk_error("read the file MILLPOND")(error)),
    }
}

fn decode(bytes: &[u8]) -> Result<Stored, OpenError> {
    let damaged = |detail: &str| OpenError::Damaged {
        what: "the file MILLPOND".to_owned(),
        detail: detail.to_owned(),
    };
    let stored = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (checked, checksum) = stored
        .rsplit_once("crc32c ")
        .ok_or_else(|| damaged("it has no checksum"))?;
    if checksum.trim_end() != format!("{:08x}", crc32c(&[checked.as_bytes()])) {
        return Err(damaged("its checksum differs"));
    }
    let number = |name: &'static str| {
        let value = |line: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
        let found = checked.lines().find_map(value);
        found.ok_or_else(|| damaged("a setting is missing"))
    };
    let format = number("format ")?;
    if format > u64::from(FORMAT) {
        return Err(OpenError::NewerFormat {
            found: u32::try_from(format).unwrap_or(u32::MAX),
            known: FORMAT,
        });
    }
    let wals = u16::try_from(number("wals ")?);
    Ok(Stored {
        shards: number("shards ")?,
        wals: wals.map_err(|_| damaged("it names too many WALs"))?,
    })
}

fn check(bytes: &[u8], settings: &Settings) -> Result<(), OpenError> {
    let stored = decode(bytes)?;
    let fixed = [
        ("shards", stored.shards, settings.shards),
        ("wals", u64::from(stored.wals), settings.wals),
    ];
    for (setting, stored, asked) in fixed {
        if stored != u64::from(asked) {
            return Err(OpenError::FixedSetting {
                setting,
                stored,
                asked: u64::from(asked),
            });
        }
    }
    Ok(())
}

//! The snapshot on disk: one file for each node, readable by its owner only, for it holds the
//! node's private key and passwords. A file is whole or not there: it is written aside, made
//! durable and put in place by a rename.

use core::fmt::{self, Write as _};
use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use meshbeat_core::Instant;

use crate::relay::snapshot::{DamagedError, Snapshot};

/// Bytes of a file that are read at most, far more than a snapshot of 10,000 nodes has.
const MAX_FILE: u64 = 32 << 20;
/// Bytes of a node's address that go into the file name as they are.
const MAX_NAME: usize = 200;
/// From a change to its save, so that what comes together is saved together.
const SETTLE: Duration = Duration::from_secs(2);
/// From save to save, to spare memory cards.
const PERIOD: Duration = Duration::from_secs(600);

/// Where the snapshot of one node is kept.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    path: PathBuf,
    /// The user that this program runs as, learnt from a file of its own.
    uid: u32,
}

/// Why a snapshot could not be loaded or saved; one line that names the path.
#[derive(Debug)]
pub enum StoreError {
    /// Others may read or change it, or it is theirs; the text says what would be right.
    Loose(String),
    /// The file is no snapshot. It stays until the next save takes its place, and nothing else is
    /// to be done but to say so.
    Damaged(PathBuf, DamagedError),
    /// The system refused.
    Io(PathBuf, io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loose(text) => f.write_str(text),
            Self::Damaged(path, why) => {
                write!(f, "{}: damaged, ignored: {why}", path.display())
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl core::error::Error for StoreError {}

/// The folder to use where none is given: the first of `$STATE_DIRECTORY` (systemd), else
/// `meshbeat` in `$XDG_STATE_HOME`, else in `~/.local/state`. `None` if there is no home either.
pub fn default_dir() -> Option<PathBuf> {
    dir_from(|name| env::var_os(name))
}

fn dir_from(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // A relative path in these is invalid and to be ignored (XDG Base Directory Specification).
    let absolute = |path: &PathBuf| path.is_absolute();
    let systemd = var("STATE_DIRECTORY").and_then(|list| env::split_paths(&list).find(absolute));
    let xdg = || var("XDG_STATE_HOME").map(PathBuf::from).filter(absolute);
    let home = || Some(PathBuf::from(var("HOME")?).join(".local/state")).filter(absolute);
    systemd.or_else(|| Some(xdg().or_else(home)?.join("meshbeat")))
}

impl Store {
    /// Where `node`, an address as it was typed, is kept in `dir`. The folder is made if it is
    /// missing, with mode 0700. Folder and file are refused if others have rights on them.
    pub fn open(dir: &Path, node: &str) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io(dir.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let metadata = fs::metadata(dir).map_err(failed)?;
        refuse_loose(dir, &metadata, 0o700)?;

        let path = dir.join(file_name(node));
        let uid = own_uid(&beside(&path, ".probe"))?;
        let store = Self { dir: dir.to_owned(), path, uid };
        store.refuse_foreign(dir, &metadata)?;
        store.check_file()?;
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved last; `None` if nothing was.
    pub fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        if !self.check_file()? {
            return Ok(None);
        }
        let failed = |error| StoreError::Io(self.path.clone(), error);
        let mut bytes = Vec::new();
        let file = File::open(&self.path).map_err(failed)?;
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
        let decoded = Snapshot::decode(&bytes);
        decoded.map(Some).map_err(|why| StoreError::Damaged(self.path.clone(), why))
    }

    /// Puts the snapshot in the place of what was saved before. After an error that is still there.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.check_file()?;
        let new = beside(&self.path, ".new");
        let failed = |error| StoreError::Io(new.clone(), error);
        let mut file = create(&new).map_err(failed)?;
        let written = file.write_all(&snapshot.encode()).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(&new, &self.path)) {
            // A full disk is not helped by what is left over.
            let _ = fs::remove_file(&new);
            return Err(failed(error));
        }
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|error| StoreError::Io(self.dir.clone(), error))
    }

    /// Whether the file is there; an error if it is not ours alone.
    fn check_file(&self) -> Result<bool, StoreError> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::Io(self.path.clone(), error)),
        };
        if !metadata.is_file() {
            let path = self.path.display();
            let text = format!("{path}: not a regular file; remove it, or choose another --state");
            return Err(StoreError::Loose(text));
        }
        refuse_loose(&self.path, &metadata, 0o600)?;
        self.refuse_foreign(&self.path, &metadata)?;
        Ok(true)
    }

    fn refuse_foreign(&self, path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
        let (owner, own) = (metadata.uid(), self.uid);
        if owner == own {
            return Ok(());
        }
        let path = path.display();
        let text = format!("{path}: belongs to user {owner}, not {own}: chown {own} {path}");
        Err(StoreError::Loose(text))
    }
}

/// When to save: 2 s after a change, at most every ten minutes. Without a clock: `now` comes in, the
/// deadline goes out. What changed after the last save is to be saved at the end of the program.
#[derive(Debug)]
pub struct SaveTimer {
    /// The version that is on disk.
    saved: u64,
    due: Option<Instant>,
    /// Not before this.
    rest: Instant,
}

impl SaveTimer {
    /// With this version on disk, or worth no save.
    pub const fn new(version: u64) -> Self {
        Self { saved: version, due: None, rest: Instant::ORIGIN }
    }

    /// The snapshot has this version now.
    pub fn handle_version(&mut self, now: Instant, version: u64) {
        if self.is_behind(version) && self.due.is_none() {
            self.due = Some((now + SETTLE).max(self.rest));
        }
    }

    /// This version was saved, or could not be: the next attempt is ten minutes away either way.
    pub fn handle_saved(&mut self, now: Instant, version: u64, done: bool) {
        if done {
            self.saved = version;
        }
        self.rest = now + PERIOD;
        self.due = (!done).then_some(self.rest);
    }

    /// Whether to save now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether what is on disk is older than this version.
    pub const fn is_behind(&self, version: u64) -> bool {
        self.saved != version
    }

    /// When to save; `None` if nothing changed.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

fn refuse_loose(path: &Path, metadata: &Metadata, right: u32) -> Result<(), StoreError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(StoreError::Loose(format!(
        "{path}: mode {mode:04o} lets others at the node's keys: chmod {right:o} {path}"
    )))
}

/// The user that owns what this program makes.
fn own_uid(probe: &Path) -> Result<u32, StoreError> {
    let uid = create(probe).and_then(|file| file.metadata()).map(|metadata| metadata.uid());
    uid.and_then(|uid| fs::remove_file(probe).map(|()| uid))
        .map_err(|error| StoreError::Io(probe.to_owned(), error))
}

/// A new file that nobody else can read, in the place of one that a crash may have left.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A node's address as a file name: `:` becomes `_`, and what is neither letter, digit, `-` nor an
/// inner `.` is written as `%` and two hexadecimal digits, so that no two addresses share one.
fn file_name(node: &str) -> String {
    let mut name = String::new();
    for byte in node.bytes() {
        let _ = match byte {
            b':' => name.write_char('_'),
            b'.' if !name.is_empty() => name.write_char('.'),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.write_char(byte.into()),
            _ => write!(name, "%{byte:02X}"),
        };
    }
    if name.len() > MAX_NAME {
        let hash = node.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        name.truncate(MAX_NAME);
        let _ = write!(name, "%{hash:016x}");
    }
    name + ".snapshot"
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use meshbeat_core::peek::FromRadio;

    use super::*;
    use crate::relay::snapshot::{Ask, Builder};

    /// A folder of its own for a test, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("meshbeat-store-{}-{count}", std::process::id());
            let path = env::temp_dir().join(name);
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            Self(path)
        }

        fn store(&self) -> Store {
            Store::open(&self.0, "10.0.0.5:4403").unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Of a node with this number that told nothing else.
    fn snapshot(number: u8) -> Snapshot {
        let payload = [0x1A, 2, 0x08, number];
        let mut builder = Builder::new();
        assert!(builder.take(&payload, &FromRadio::peek(&payload).unwrap()));
        builder.finish().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn loose<T: fmt::Debug>(result: Result<T, StoreError>) -> String {
        match result {
            Err(error @ StoreError::Loose(_)) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_for_nobody_else() {
        let folder = Folder::new();
        let dir = folder.0.join("a/b");
        let store = Store::open(&dir, "10.0.0.5:4403").unwrap();
        assert_eq!((mode(&folder.0.join("a")), mode(&dir)), (0o700, 0o700));
        assert_eq!(store.path(), dir.join("10.0.0.5_4403.snapshot"));
        assert!(store.load().unwrap().is_none());
        for number in [7, 8] {
            store.save(&snapshot(number)).unwrap();
            assert_eq!(mode(store.path()), 0o600);
            assert_eq!(store.load().unwrap().unwrap().node(), u32::from(number));
        }
        let names: Vec<_> = fs::read_dir(&dir).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left over");
        let again = Store::open(&dir, "10.0.0.5:4403").unwrap().load().unwrap().unwrap();
        assert_eq!(again.handshake(Ask::Full).count(), 1);
        assert!(Store::open(&dir, "10.0.0.6:4403").unwrap().load().unwrap().is_none());
    }

    #[test]
    fn a_loose_folder_is_refused_with_what_would_be_right() {
        let folder = Folder::new();
        for loose_mode in [0o755, 0o710, 0o701, 0o770] {
            set_mode(&folder.0, loose_mode);
            let line = loose(Store::open(&folder.0, "sim"));
            let path = folder.0.display();
            assert!(line.starts_with(&format!("{path}: mode {loose_mode:04o} ")), "{line}");
            assert!(line.ends_with(&format!("chmod 700 {path}")), "{line}");
            assert!(folder.names().is_empty(), "nothing was written there");
        }
    }

    #[test]
    fn a_loose_file_is_refused_by_all() {
        let folder = Folder::new();
        let store = folder.store();
        store.save(&snapshot(7)).unwrap();
        for loose_mode in [0o640, 0o604, 0o622] {
            set_mode(store.path(), loose_mode);
            let line = loose(Store::open(&folder.0, "10.0.0.5:4403"));
            assert!(line.contains("10.0.0.5_4403.snapshot: mode 06"), "{line}");
            assert!(line.contains("chmod 600"), "{line}");
            loose(store.load());
            loose(store.save(&snapshot(8)));
        }
        set_mode(store.path(), 0o600);
        assert_eq!(store.load().unwrap().unwrap().node(), 7);
    }

    #[test]
    fn a_link_or_a_folder_in_the_place_of_the_file_is_refused() {
        let folder = Folder::new();
        let store = folder.store();
        let elsewhere = folder.0.join("elsewhere");
        fs::write(&elsewhere, "of somebody").unwrap();
        set_mode(&elsewhere, 0o600);
        symlink(&elsewhere, store.path()).unwrap();
        assert!(loose(store.load()).contains("not a regular file"));
        loose(store.save(&snapshot(7)));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"of somebody");
        fs::remove_file(store.path()).unwrap();
        fs::create_dir(store.path()).unwrap();
        loose(Store::open(&folder.0, "10.0.0.5:4403"));
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let folder = Folder::new();
        let mut store = folder.store();
        store.save(&snapshot(7)).unwrap();
        let own = store.uid;
        store.uid = own + 1;
        let line = loose(store.load());
        assert!(line.contains(&format!("belongs to user {own}, not {}", own + 1)), "{line}");
    }

    #[test]
    fn a_damaged_file_is_said_to_be_so_and_goes_with_the_next_save() {
        let folder = Folder::new();
        let store = folder.store();
        store.save(&snapshot(7)).unwrap();
        let mut bytes = fs::read(store.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        for damaged in [&bytes[..], &bytes[..9], b""] {
            fs::write(store.path(), damaged).unwrap();
            let error = folder.store().load().unwrap_err();
            assert!(matches!(error, StoreError::Damaged(..)), "{error}");
            let line = error.to_string();
            assert!(line.contains("10.0.0.5_4403.snapshot: damaged, ignored: "), "{line}");
        }
        store.save(&snapshot(8)).unwrap();
        assert_eq!(store.load().unwrap().unwrap().node(), 8);
    }

    #[test]
    fn what_a_crash_left_over_does_no_harm() {
        let folder = Folder::new();
        let store = folder.store();
        store.save(&snapshot(7)).unwrap();
        for left in [".new", ".probe"] {
            // Loose on purpose: what is in the new file must not be seen through it.
            let left = beside(store.path(), left);
            fs::write(&left, "half a snap").unwrap();
            set_mode(&left, 0o644);
        }
        let store = folder.store();
        assert_eq!(store.load().unwrap().unwrap().node(), 7);
        store.save(&snapshot(8)).unwrap();
        assert_eq!((store.load().unwrap().unwrap().node(), mode(store.path())), (8, 0o600));
        assert_eq!(folder.names(), ["10.0.0.5_4403.snapshot"]);
    }

    #[test]
    fn what_was_saved_stays_when_a_save_fails() {
        let folder = Folder::new();
        let store = folder.store();
        store.save(&snapshot(7)).unwrap();
        // No file can be made in the place of a folder.
        fs::create_dir(beside(store.path(), ".new")).unwrap();
        let error = store.save(&snapshot(8)).unwrap_err();
        assert!(error.to_string().contains("10.0.0.5_4403.snapshot.new: "), "{error}");
        assert_eq!(store.load().unwrap().unwrap().node(), 7);
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let folder = Folder::new();
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file.join("state"), "sim").unwrap_err();
        let start = format!("{}/file/state: ", folder.0.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }

    #[test]
    fn no_address_leaves_the_folder_and_no_two_share_a_file() {
        assert_eq!(file_name("10.0.0.5:4403"), "10.0.0.5_4403.snapshot");
        assert_eq!(file_name("Meshtastic.local:4403"), "Meshtastic.local_4403.snapshot");
        assert_eq!(file_name("[fe80::1]:4403"), "%5Bfe80__1%5D_4403.snapshot");
        let all = ["unix:/run/a", "unix:/run_a", "unix:_run_a", "../a", ".a", "..", "", "%2E", "ä"];
        let mut names: Vec<_> = all.iter().map(|node| file_name(node)).collect();
        names.extend(["x", "y"].map(|end| file_name(&("a".repeat(5_000) + end))));
        assert!(names.iter().all(|name| !name.contains('/') && name.len() < 240), "{names:?}");
        assert!(names.iter().all(|name| name == ".snapshot" || !name.starts_with('.')));
        let len = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), len, "{names:?}");
    }

    #[test]
    fn the_folder_comes_from_the_environment() {
        let dir = |vars: &[(&str, &str)]| {
            let var = |name: &str| {
                let found = vars.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            };
            dir_from(var).map(|dir| dir.to_str().unwrap().to_owned())
        };
        let home = ("HOME", "/home/pi");
        let xdg = ("XDG_STATE_HOME", "/state");
        let systemd = ("STATE_DIRECTORY", "/var/lib/meshbeat:/var/lib/other");
        assert_eq!(dir(&[home, xdg, systemd]).as_deref(), Some("/var/lib/meshbeat"));
        assert_eq!(dir(&[home, xdg]).as_deref(), Some("/state/meshbeat"));
        assert_eq!(dir(&[home]).as_deref(), Some("/home/pi/.local/state/meshbeat"));
        let odd = [home, ("XDG_STATE_HOME", "state"), ("STATE_DIRECTORY", "")];
        assert_eq!(dir(&odd).as_deref(), Some("/home/pi/.local/state/meshbeat"));
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn saves_come_soon_after_a_change_and_rarely() {
        let at = Instant::from_millis;
        let mut timer = SaveTimer::new(3);
        // ms, version now, due then, saved
        for (ms, version, due, saved) in [
            (1_000, 3, None, None),
            (5_000, 4, Some(7_000), None),
            (6_000, 5, Some(7_000), None),
            (7_000, 5, Some(7_000), Some(true)),
            (7_500, 5, None, None),
            (8_000, 6, Some(607_000), None),
            (607_000, 7, Some(607_000), Some(false)),
            (607_001, 7, Some(1_207_000), None),
            (1_207_000, 7, Some(1_207_000), Some(true)),
            (3_000_000, 8, Some(3_002_000), None),
        ] {
            timer.handle_version(at(ms), version);
            assert_eq!(timer.poll_timeout(), due.map(at), "at {ms}");
            assert_eq!(timer.is_due(at(ms)), due.is_some_and(|due| due <= ms), "at {ms}");
            if let Some(done) = saved {
                timer.handle_saved(at(ms), version, done);
                assert_eq!(timer.is_behind(version), !done);
            }
        }
        assert!(timer.is_behind(8) && !timer.is_behind(7));
    }
}

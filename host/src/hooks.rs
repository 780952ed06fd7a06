//! Commands of the operator's that run when the link goes down and when it is back.
//!
//! A command runs through `sh -c`, with nothing on its standard input and its standard output
//! dropped; what it writes to standard error is in the log with ours. Its environment has
//!
//! | variable | what it says |
//! |---|---|
//! | `MESHBEAT_EVENT` | `down` or `up` |
//! | `MESHBEAT_NODE` | the node, as it was written |
//! | `MESHBEAT_REASON` | why the link was lost, such as `connection reset (104 ECONNRESET)` |
//! | `MESHBEAT_DOWN_SECONDS` | for how many whole seconds it was away; 0 for `down` |
//!
//! `down` is run at once when a link that was up is lost, `up` when it is back after that; not when
//! it comes up for the first time. At most one runs at a time: while it does, the newest event waits and older ones are
//! dropped, so the last command run is always the one that says how things are. After 60 s a
//! command is killed with all that it started.
//!
//! A child's end is looked for every 100 ms, and only while there is one.

use core::time::Duration;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use log::{debug, warn};
use meshbeat_core::Instant;
use meshbeat_core::fault::Fault;
use meshbeat_core::link::Event;

/// Runs the operator's commands.
#[derive(Debug, Default)]
pub struct Hooks {
    node: String,
    on_down: Option<String>,
    on_up: Option<String>,
    /// When the link was lost, and why; `None` while it is up or was not yet.
    down: Option<(Instant, Fault)>,
    running: Option<Running>,
    waiting: Option<Job>,
}

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Job {
    command: String,
    event: &'static str,
    reason: String,
    down: Duration,
}

#[derive(Debug)]
struct Running {
    child: Child,
    event: &'static str,
    look_at: Instant,
    kill_at: Instant,
    killed: bool,
}

impl Hooks {
    /// For a link to `node`; a command that is not given is not run.
    pub fn new(node: String, on_down: Option<String>, on_up: Option<String>) -> Self {
        Self { node, on_down, on_up, ..Self::default() }
    }

    /// Something happened to the link.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        let (command, job) = match event {
            Event::Lost { fault, was_up: true, .. } => {
                self.down = Some((now, fault));
                (&self.on_down, ("down", fault, Duration::ZERO))
            }
            Event::Configured { .. } => match self.down.take() {
                Some((since, fault)) => (&self.on_up, ("up", fault, now.since(since))),
                None => return,
            },
            _ => return,
        };
        let Some(command) = command.clone() else { return };
        let (event, fault, down) = job;
        let job = Job { command, event, reason: fault.to_string(), down };
        if let Some(dropped) = self.waiting.replace(job) {
            debug!(target: "hook", "--on-{} is not run, the link has changed again", dropped.event);
        }
        self.next(now);
    }

    /// Looks for the end of the command that runs, and ends one that takes too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut().filter(|running| now >= running.look_at) else {
            return;
        };
        running.look_at = now + LOOK;
        match running.child.try_wait() {
            Ok(None) if now >= running.kill_at && !running.killed => {
                running.killed = true;
                kill(&mut running.child);
            }
            Ok(None) => {}
            ended => {
                complain(running, ended);
                self.running = None;
                self.next(now);
            }
        }
    }

    /// When to look next; `None` while no command runs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.look_at)
    }

    /// Starts what waits, if nothing runs.
    fn next(&mut self, now: Instant) {
        if self.running.is_some() {
            return;
        }
        let Some(job) = self.waiting.take() else { return };
        let mut command = Command::new("sh");
        command
            .args(["-c", &job.command])
            .env("MESHBEAT_EVENT", job.event)
            .env("MESHBEAT_NODE", &self.node)
            .env("MESHBEAT_REASON", &job.reason)
            .env("MESHBEAT_DOWN_SECONDS", job.down.as_secs().to_string())
            // These are ours alone.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        match command.spawn() {
            Ok(child) => {
                debug!(target: "hook", "--on-{} runs", job.event);
                self.running = Some(Running {
                    child,
                    event: job.event,
                    look_at: now + LOOK,
                    kill_at: now + LIMIT,
                    killed: false,
                });
            }
            Err(error) => warn!(target: "hook", "--on-{}: sh: {error}", job.event),
        }
    }
}

/// One warning if it was not well.
fn complain(running: &Running, ended: io::Result<Option<ExitStatus>>) {
    let event = running.event;
    match ended {
        _ if running.killed => {
            warn!(target: "hook", "--on-{event} was killed after {} s", LIMIT.as_secs());
        }
        Ok(Some(status)) if !status.success() => warn!(target: "hook", "--on-{event}: {status}"),
        Ok(_) => {}
        Err(error) => warn!(target: "hook", "--on-{event}: {error}"),
    }
}

/// Ends a command and all that it started: they are one process group, and the shell can signal it.
fn kill(child: &mut Child) {
    let group = format!("kill -s KILL -- -{}", child.id());
    let done = Command::new("sh").args(["-c", &group]).stderr(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success())
        && let Err(error) = child.kill()
    {
        debug!(target: "hook", "kill: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::path::PathBuf;
    use std::thread;

    use meshbeat_core::fault::Class;

    use super::*;

    const RESET: Fault = Fault::new(Class::ConnectionReset);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn lost(was_up: bool) -> Event {
        Event::Lost { fault: RESET, opened: None, was_up, retry_at: at(0) }
    }

    fn configured() -> Event {
        Event::Configured { node: 1, asked: at(0), last_heard: None }
    }

    /// A named pipe that commands write to; reading it waits for them.
    struct Pipe(PathBuf);

    impl Pipe {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("meshbeat-{name}-{}", std::process::id()));
            let made = Command::new("mkfifo").arg(&path).status();
            assert!(made.expect("mkfifo is there").success());
            Self(path)
        }

        fn command(&self, what: &str) -> Option<String> {
            Some(format!("{what} > {}", self.0.display()))
        }

        fn line(&self) -> String {
            let mut line = String::new();
            let pipe = fs::File::open(&self.0).expect("it is ours");
            BufReader::new(pipe).read_line(&mut line).expect("UTF-8");
            line
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// Waits for the end of what runs without letting the hooks' time pass beyond `now`.
    fn wait(hooks: &mut Hooks, now: Instant) {
        let running = hooks.running.as_mut().expect("it runs");
        running.child.wait().expect("our child");
        hooks.handle_timeout(now);
    }

    const SAY: &str =
        "echo $MESHBEAT_EVENT $MESHBEAT_NODE \"$MESHBEAT_REASON\" $MESHBEAT_DOWN_SECONDS";

    #[test]
    fn down_at_once_and_up_after_that() {
        let pipe = Pipe::new("hooks");
        let mut hooks = Hooks::new("node:4403".into(), pipe.command(SAY), pipe.command(SAY));
        hooks.handle_event(at(0), lost(false));
        hooks.handle_event(at(1), configured());
        assert_eq!(hooks.poll_timeout(), None, "it was never down");

        hooks.handle_event(at(1000), lost(true));
        assert_eq!(pipe.line(), "down node:4403 connection reset 0\n");
        hooks.handle_event(at(2000), lost(false));
        wait(&mut hooks, at(3000));
        assert_eq!(hooks.poll_timeout(), None, "nobody is looked for");
        hooks.handle_event(at(14_900), configured());
        assert_eq!(pipe.line(), "up node:4403 connection reset 13\n");
        wait(&mut hooks, at(15_000));
    }

    #[test]
    fn while_one_runs_the_newest_waits() {
        let pipe = Pipe::new("waits");
        let mut hooks = Hooks::new("n".into(), pipe.command(SAY), pipe.command(SAY));
        hooks.handle_event(at(0), lost(true));
        // The first is held by the pipe that nobody reads yet.
        hooks.handle_event(at(1000), configured());
        hooks.handle_event(at(2000), lost(true));
        hooks.handle_event(at(5000), configured());
        hooks.handle_timeout(at(6000));
        assert!(hooks.waiting.is_some() && hooks.running.is_some());
        assert!(pipe.line().starts_with("down n"));
        wait(&mut hooks, at(7000));
        assert_eq!(pipe.line(), "up n connection reset 3\n", "what was between is dropped");
        wait(&mut hooks, at(8000));
        assert!(hooks.running.is_none() && hooks.waiting.is_none());
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let pipe = Pipe::new("killed");
        // The shell's child keeps the pipe open: the end of the file is the child's end.
        let command = format!("{{ echo here; sleep 600; }} > {}; true", pipe.0.display());
        let mut hooks = Hooks::new("n".into(), Some(command), None);
        hooks.handle_event(at(0), lost(true));
        let mut output = BufReader::new(fs::File::open(&pipe.0).expect("it is ours"));
        let mut line = String::new();
        output.read_line(&mut line).expect("UTF-8");
        let reader = thread::spawn(move || output.read_line(&mut String::new()));
        hooks.handle_timeout(at(59_999));
        assert!(!hooks.running.as_ref().expect("it runs").killed);
        hooks.handle_timeout(at(60_100));
        assert!(hooks.running.as_ref().expect("not reaped yet").killed);
        assert_eq!(reader.join().expect("no panic").expect("the end"), 0);
        wait(&mut hooks, at(60_200));
        assert_eq!(hooks.poll_timeout(), None);
    }

    #[test]
    fn what_fails_is_reaped_too() {
        let mut hooks = Hooks::new("n".into(), Some("exit 3".into()), None);
        hooks.handle_event(at(0), lost(true));
        wait(&mut hooks, at(100));
        hooks.handle_event(at(200), configured());
        assert!(hooks.running.is_none(), "no command for it");
    }
}

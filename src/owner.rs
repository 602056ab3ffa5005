//! Who made what a run leaves behind when it is killed: leases on nodes, names in engines.

/// Which process on which machine made something that outlives it, so that another run can
/// tell whether it is still wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Boot and process namespace: where the pid below means something.
    machine: String,
    pid: u32,
    /// Start time of the process, in clock ticks since boot, against recycled pids.
    started: u64,
}

impl Owner {
    /// Returns this process.
    pub fn this() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid")
            .map(|link| {
                link.to_string_lossy()
                    .replace(|c: char| !c.is_ascii_digit(), "")
            })
            .unwrap_or_default();
        let pid = std::process::id();
        Self {
            machine: format!("{}.{namespace}", boot.trim()),
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    /// Writes it down.
    pub fn label(&self) -> String {
        format!("{}/{}/{}", self.machine, self.pid, self.started)
    }

    /// Reads what [`Owner::label`] wrote.
    pub fn parse(label: &str) -> Option<Self> {
        let mut parts = label.split('/');
        Some(Self {
            machine: parts.next()?.to_owned(),
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        })
    }

    /// Tells whether that process is surely gone; none, if this machine cannot know.
    pub fn is_dead(&self, here: &Owner) -> Option<bool> {
        if self.machine != here.machine || here.started == 0 {
            return None;
        }
        if started(self.pid).is_none() && is_hidden(self.pid) {
            return None;
        }
        Some(started(self.pid) != Some(self.started))
    }
}

/// Reads when a process started: field 22 of /proc/PID/stat, counted after the name, which may
/// hold spaces.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie has ended, whether anybody has taken note or not.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Tells whether a process lives that /proc hides from us, because it is another user's.
fn is_hidden(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::PERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_survives_its_label() {
        let here = Owner::this();
        assert_eq!(Owner::parse(&here.label()), Some(here.clone()));
        assert_eq!(here.is_dead(&here), Some(false));
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let here = Owner::this();
        let older = Owner {
            started: here.started - 1,
            ..here.clone()
        };
        assert_eq!(older.is_dead(&here), Some(true));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(')')
                .unwrap()
                .1
                .trim_start()
                .starts_with('Z')
        };
        while !ended() {
            std::thread::yield_now();
        }
        assert_eq!(started(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn processes_of_other_machines_are_not_judged() {
        let here = Owner::this();
        let other = Owner {
            machine: "elsewhere.1".into(),
            ..here.clone()
        };
        assert_eq!(other.is_dead(&here), None);
    }
}

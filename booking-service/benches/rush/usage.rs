//! What processes use, from `/proc`; nothing where there is none.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

/// One tick of `/proc/PID/stat`; the kernel's USER_HZ is 100 on every system that Rust knows.
const TICK: Duration = Duration::from_millis(10);

/// CPU time and log volume so far, or of a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) services: Duration,
    pub(crate) postgres: Duration,
    /// Load generators that have ended.
    pub(crate) clients: Duration,
    pub(crate) wal_bytes: u64,
    /// The whole machine, whoever it worked for.
    pub(crate) machine: Duration,
}

impl Usage {
    /// What the machine did for others, as a share of all that it did.
    pub(crate) fn of_others(self) -> f64 {
        let ours = self.services + self.postgres + self.clients;
        self.machine.saturating_sub(ours).as_secs_f64() / self.machine.as_secs_f64().max(f64::EPSILON)
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            services: self.services.saturating_sub(earlier.services),
            postgres: self.postgres.saturating_sub(earlier.postgres),
            clients: self.clients.saturating_sub(earlier.clients),
            machine: self.machine.saturating_sub(earlier.machine),
            wal_bytes: self.wal_bytes.saturating_sub(earlier.wal_bytes),
        }
    }
}

/// The fields of `/proc/PID/stat` from the third on: after the name, which can hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn field(fields: &[String], number: usize) -> u32 {
    fields.get(number - 3).and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// The process that started this one.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|fields| field(&fields, 4))
}

/// CPU time of a process and of those of its children that have ended.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    stat(pid)
        .map_or(Duration::ZERO, |fields| TICK * (14..=17).map(|number| field(&fields, number)).sum::<u32>())
}

/// CPU time of all children that live.
pub(crate) fn cpu_of_children(parent: u32) -> Duration {
    let Ok(processes) = fs::read_dir("/proc") else { return Duration::ZERO };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).map(cpu_of).sum()
}

/// CPU time of everything on this machine, without idling and waiting for disks.
pub(crate) fn cpu_of_machine() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u32> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq; what follows is counted in these, or is not ours to use.
    let busy = fields.iter().take(7).enumerate().filter(|(n, _)| !matches!(n, 3 | 4));
    TICK * busy.map(|(_, ticks)| *ticks).sum::<u32>()
}

/// Resident memory now and at its highest, in MiB.
pub(crate) fn memory_of(pid: u32) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mebibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kibibytes.unwrap_or(f64::NAN) / 1024.0
    };
    (mebibytes("VmRSS:"), mebibytes("VmHWM:"))
}

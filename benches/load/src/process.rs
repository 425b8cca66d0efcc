//! What the measured server has spent so far, as the kernel keeps it under `/proc`.

use serde::Serialize;
use std::fs;
use std::io::Result;

/// Spent by all processes named, from their start or since another look.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Spent {
    /// On a processor, in nanoseconds.
    pub cpu_ns: u64,
    /// Of that in the kernel, in clock ticks.
    pub system_ticks: u64,
    /// In user space, in clock ticks.
    pub user_ticks: u64,
    /// Reads and writes through files: `recv` and `send` are not among them.
    pub reads_and_writes: u64,
    /// Times a thread waited of its own will.
    pub waits: u64,
    /// Times a thread was interrupted.
    pub interruptions: u64,
    /// Memory now, in KiB.
    pub rss_kib: u64,
    /// The most memory ever, in KiB.
    pub peak_rss_kib: u64,
}

impl Spent {
    /// What has been spent since `before`; memory is as it is now.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            // A thread that ended takes its time with it.
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            reads_and_writes: self.reads_and_writes.saturating_sub(before.reads_and_writes),
            waits: self.waits.saturating_sub(before.waits),
            interruptions: self.interruptions.saturating_sub(before.interruptions),
            ..*self
        }
    }
}

/// Looks at all processes; none if there are none to look at.
///
/// # Errors
/// One of them is not there.
pub(crate) fn look(pids: &[u32]) -> Result<Option<Spent>> {
    let mut spent = Spent::default();
    for pid in pids {
        add(&mut spent, &format!("/proc/{pid}"))?;
    }
    Ok((!pids.is_empty()).then_some(spent))
}

fn add(spent: &mut Spent, process: &str) -> Result<()> {
    let stat = fs::read_to_string(format!("{process}/stat"))?;
    // The name may hold spaces: fields count from behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    spent.user_ticks += field(11);
    spent.system_ticks += field(12);
    let status = fs::read_to_string(format!("{process}/status"))?;
    spent.rss_kib += value(&status, "VmRSS:");
    spent.peak_rss_kib += value(&status, "VmHWM:");
    // Not everyone may read this.
    let io = fs::read_to_string(format!("{process}/io")).unwrap_or_default();
    spent.reads_and_writes += value(&io, "syscr:") + value(&io, "syscw:");
    for thread in fs::read_dir(format!("{process}/task"))?.flatten() {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let on_cpu = read("schedstat");
        spent.cpu_ns += on_cpu.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let status = read("status");
        spent.waits += value(&status, "voluntary_ctxt_switches:");
        spent.interruptions += value(&status, "nonvoluntary_ctxt_switches:");
    }
    Ok(())
}

fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_processor_time() {
        let me = [std::process::id()];
        let before = look(&me).unwrap().unwrap();
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 50 {
            std::hint::spin_loop();
        }
        // The time of a thread that runs is brought up to date when it is scheduled.
        std::thread::yield_now();
        let spent = look(&me).unwrap().unwrap().since(&before);
        assert!(spent.cpu_ns > 5_000_000 && spent.rss_kib > 100, "{} ns", spent.cpu_ns);
    }

    #[test]
    fn a_process_that_is_not_there_is_a_fault() {
        assert!(look(&[u32::MAX]).is_err());
        assert!(look(&[]).unwrap().is_none());
    }
}

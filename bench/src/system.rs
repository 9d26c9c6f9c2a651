//! The operating system: cores, clocks, limits, memory. Linux only, as the measurements are.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;

use crate::outcome::{Outcome, failure};

/// Cores that this process may use, in order.
pub(crate) fn cores() -> Outcome<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Keeps the calling thread, and threads it starts from now on, on these cores.
pub(crate) fn pin(cores: &[usize]) -> Outcome {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// Prepares a peer process: it dies with its parent, may open all files the system allows, and wakes from sleep on
/// time.
pub(crate) fn prepare_peer() -> Outcome {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_timerslack(1)?;
    files_max()?;
    Ok(())
}

/// Files that a process wants to open at most: rzmq with io_uring has five for each of 10,000 connections.
const FILES_WANTED: u64 = 65_536;

/// Lets this process open as many files as it may, up to what is wanted if it may raise its own limit. Returns how many.
pub(crate) fn files_max() -> Outcome<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < FILES_WANTED && setrlimit(Resource::RLIMIT_NOFILE, FILES_WANTED, FILES_WANTED).is_ok()
    {
        return Ok(FILES_WANTED);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Nanoseconds of the monotonic clock, which all processes of the machine share.
#[inline]
pub(crate) fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

/// Sleeps until the monotonic clock shows `deadline_ns`.
pub(crate) fn sleep_until(deadline_ns: u64) {
    let deadline = Duration::from_nanos(deadline_ns).into();
    let _ =
        clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &deadline);
}

/// CPU time that a process has used so far, user and system, in seconds.
pub(crate) fn cpu_seconds(process: u32) -> Outcome<f64> {
    let process = Pid::from_raw(i32::try_from(process)?);
    let clock = ClockId::pid_cpu_clock_id(process)?;
    Ok(nanoseconds(clock.now()?) as f64 / 1e9)
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time that all processes of the machine have used so far, in seconds, and time that a hypervisor kept from them.
/// Interrupts are left out: on loopback most of them serve the measurement itself. Counted in ticks of 10 ms.
pub(crate) fn busy_seconds() -> Outcome<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let text = fs::read_to_string("/proc/stat")?;
    let line =
        text.lines().next().and_then(|line| line.strip_prefix("cpu ")).ok_or("no cpu line")?;
    let ticks: Vec<f64> =
        line.split_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(failure)?;
    // The columns are user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    let busy = ticks.iter().enumerate().filter(|(column, _)| [0, 1, 2, 7].contains(column));
    Ok(busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_S)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(process: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
    Ok(kibibytes.trim().parse::<u64>().map_err(failure)? * 1024)
}

/// The processor and how many cores of it this process may use.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let virtual_machine = if info.contains(" hypervisor") { ", virtual machine" } else { "" };
    let cores = cores().map_or(0, |cores| cores.len());
    format!("{model}, {cores} cores{virtual_machine}")
}

/// The file system, and its device, of a directory.
pub(crate) fn device(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (device, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
            directory.starts_with(place).then_some((place.len(), device, kind))
        })
        .max_by_key(|(length, ..)| *length);
    let Some((_, device, kind)) = found else { return "an unknown device".to_owned() };
    let name = device.trim_start_matches("/dev/");
    let queue = |file: &str| fs::read_to_string(format!("/sys/block/{name}/queue/{file}")).ok();
    let turns = match queue("rotational").as_deref().map(str::trim) {
        Some("0") => ", not rotational",
        Some("1") => ", rotational",
        _ => "",
    };
    let cache = queue("write_cache").map(|text| format!(", cache: {}", text.trim()));
    format!("{kind} on {device}{turns}{}", cache.unwrap_or_default())
}

/// The kernel and its release.
pub(crate) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

//! What the client asks for.

use crate::{number, unhex};

/// Which thread is meant. Threads are vCPUs, numbered from 1 on the wire and from 0 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Each of them.
    All,
    /// Whichever.
    Any,
    /// This vCPU.
    One(usize),
}

impl Thread {
    /// `TID` or `pPID.TID`; there is one process.
    fn parse(text: &str) -> Option<Self> {
        let id = match text.strip_prefix('p') {
            Some(both) => match both.split_once('.') {
                Some((_, thread)) => thread,
                // The whole process.
                None => "-1",
            },
            None => text,
        };
        match id {
            "-1" => Some(Self::All),
            _ => match number(id)? {
                0 => Some(Self::Any),
                id => Some(Self::One(usize::try_from(id - 1).ok()?)),
            },
        }
    }
}

/// What a vCPU shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run.
    Continue,
    /// Execute one instruction.
    Step,
}

/// A kind of breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// On execution, whether by changed code or by the CPU.
    Execute,
    /// On stores.
    Write,
    /// On loads.
    Read,
    /// On both.
    Access,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `?`: why the machine stands.
    StopReason,
    /// `!`: the server stays when the client ends.
    Extended,
    /// `g`
    ReadRegisters,
    /// `G`: the values in hexadecimal.
    WriteRegisters(String),
    /// `p`
    ReadRegister(usize),
    /// `P`: which, and its value in hexadecimal.
    WriteRegister(usize, String),
    /// `m`
    ReadMemory {
        /// Where.
        address: u64,
        /// How many bytes; any number.
        len: usize,
    },
    /// `M` and `X`
    WriteMemory {
        /// Where.
        address: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// `H`: other requests are about this thread.
    Select(Thread),
    /// `T`
    IsAlive(Thread),
    /// `Z` and `z`
    Point {
        /// It is set, not taken away.
        is_set: bool,
        /// Of what kind.
        kind: PointKind,
        /// The first address.
        address: u64,
        /// How many bytes; 0 counts as 1.
        len: u64,
    },
    /// `c`, `C`, `s` and `S`: all vCPUs run, or one does one instruction; from another address, where one is given.
    Resume(Action, Option<u64>),
    /// `vCont?`
    ContinueKinds,
    /// `vCont`: for each vCPU the first that fits it; the others stand.
    Continue(Vec<(Action, Thread)>),
    /// `D`
    Detach,
    /// `k`
    Kill,
    /// `vKill`: the same with an answer.
    KillProcess,
    /// `qSupported`
    Supported,
    /// `QStartNoAckMode`
    StartNoAckMode,
    /// `qXfer:features:read`
    ReadFeatures {
        /// Of which document.
        name: String,
        /// From which byte.
        offset: usize,
        /// How many bytes at most.
        len: usize,
    },
    /// `qC`
    CurrentThread,
    /// `qAttached`
    IsAttached,
    /// `qfThreadInfo`
    Threads,
    /// `qsThreadInfo`
    MoreThreads,
    /// `qThreadExtraInfo`
    ThreadInfo(Thread),
    /// `qqemu.Supported`
    EmulatorFeatures,
    /// `qqemu.PhyMemMode`
    IsPhysical,
    /// `Qqemu.PhyMemMode:`: addresses are physical ones.
    SetPhysical(bool),
    /// `qqemu.sstepbits`
    StepBits,
    /// `qqemu.sstep`
    StepFlags,
    /// `Qqemu.sstep`
    SetStepFlags(u64),
    /// `qRcmd`: a line of the human monitor.
    Monitor(String),
    /// Nothing that is known.
    Unknown,
    /// Something that is known, with arguments that are wrong.
    Malformed,
}

impl Request {
    /// What a packet asks for.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        if let Some(rest) = body.strip_prefix(b"X") {
            return Self::binary(rest).unwrap_or(Self::Malformed);
        }
        let Ok(text) = std::str::from_utf8(body) else { return Self::Malformed };
        let mut letters = text.chars();
        let Some(first) = letters.next() else { return Self::Unknown };
        let rest = letters.as_str();
        let request = match first {
            '?' => Some(Self::StopReason),
            '!' => Some(Self::Extended),
            'g' => Some(Self::ReadRegisters),
            'G' => Some(Self::WriteRegisters(rest.to_owned())),
            'p' => index(rest).map(Self::ReadRegister),
            'P' => {
                rest.split_once('=').and_then(|(name, value)| Some(Self::WriteRegister(index(name)?, value.to_owned())))
            }
            'm' => range(rest).map(|(address, len)| Self::ReadMemory { address, len }),
            'M' => Self::hexadecimal(rest),
            'H' => rest.get(1..).and_then(Thread::parse).map(Self::Select),
            'T' => Thread::parse(rest).map(Self::IsAlive),
            'Z' | 'z' => return Self::point(first == 'Z', rest),
            'c' | 's' => Self::resume(first, rest),
            // A signal has no meaning for a machine.
            'C' | 'S' => Self::resume(first, rest.split_once(';').map_or("", |(_, address)| address)),
            'D' => Some(Self::Detach),
            'k' => Some(Self::Kill),
            'v' => return Self::verbose(rest),
            'q' => return Self::query(rest),
            'Q' => return Self::set(rest),
            _ => return Self::Unknown,
        };
        request.unwrap_or(Self::Malformed)
    }

    fn binary(rest: &[u8]) -> Option<Self> {
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let (address, len) = range(std::str::from_utf8(rest.get(..colon)?).ok()?)?;
        let bytes = rest.get(colon + 1..)?.to_vec();
        (bytes.len() == len).then_some(Self::WriteMemory { address, bytes })
    }

    fn hexadecimal(rest: &str) -> Option<Self> {
        let (place, data) = rest.split_once(':')?;
        let (address, len) = range(place)?;
        let bytes = unhex(data)?;
        (bytes.len() == len).then_some(Self::WriteMemory { address, bytes })
    }

    fn point(is_set: bool, rest: &str) -> Self {
        let Some((kind, place)) = rest.split_once(',') else { return Self::Malformed };
        let kind = match kind {
            "0" | "1" => PointKind::Execute,
            "2" => PointKind::Write,
            "3" => PointKind::Read,
            "4" => PointKind::Access,
            _ => return Self::Unknown,
        };
        // Conditions may follow; gdb looks at them itself, too.
        let place = place.split(';').next().unwrap_or_default();
        match place.split_once(',').and_then(|(address, len)| Some((number(address)?, number(len)?))) {
            Some((address, len)) => Self::Point { is_set, kind, address, len },
            None => Self::Malformed,
        }
    }

    fn resume(letter: char, address: &str) -> Option<Self> {
        let action = if letter.eq_ignore_ascii_case(&'c') { Action::Continue } else { Action::Step };
        Some(Self::Resume(action, if address.is_empty() { None } else { Some(number(address)?) }))
    }

    fn verbose(rest: &str) -> Self {
        if rest == "Cont?" {
            return Self::ContinueKinds;
        }
        if rest.starts_with("Kill") {
            return Self::KillProcess;
        }
        let Some(actions) = rest.strip_prefix("Cont;") else { return Self::Unknown };
        let read = |action: &str| {
            let (what, thread) = action.split_once(':').unwrap_or((action, "-1"));
            let action = match what.bytes().next()? {
                b'c' | b'C' => Action::Continue,
                b's' | b'S' => Action::Step,
                _ => return None,
            };
            Some((action, Thread::parse(thread)?))
        };
        actions.split(';').map(read).collect::<Option<Vec<_>>>().map_or(Self::Malformed, Self::Continue)
    }

    fn query(rest: &str) -> Self {
        let (name, arguments) = match rest.find([':', ',']) {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
            None => (rest, ""),
        };
        match name {
            "Supported" => Self::Supported,
            "C" => Self::CurrentThread,
            "Attached" => Self::IsAttached,
            "fThreadInfo" => Self::Threads,
            "sThreadInfo" => Self::MoreThreads,
            "ThreadExtraInfo" => Thread::parse(arguments).map_or(Self::Malformed, Self::ThreadInfo),
            "qemu.Supported" => Self::EmulatorFeatures,
            "qemu.PhyMemMode" => Self::IsPhysical,
            "qemu.sstepbits" => Self::StepBits,
            "qemu.sstep" => Self::StepFlags,
            "Rcmd" => match unhex(arguments) {
                Some(line) => Self::Monitor(String::from_utf8_lossy(&line).into_owned()),
                None => Self::Malformed,
            },
            "Xfer" => match arguments.strip_prefix("features:read:") {
                Some(arguments) => {
                    let found = arguments.split_once(':').and_then(|(name, place)| {
                        let (offset, len) = range(place)?;
                        Some((name, usize::try_from(offset).ok()?, len))
                    });
                    match found {
                        Some((name, offset, len)) => Self::ReadFeatures { name: name.to_owned(), offset, len },
                        None => Self::Malformed,
                    }
                }
                None => Self::Unknown,
            },
            // The form of older clients.
            _ => match name.strip_prefix("qemu.sstep=") {
                Some(flags) => number(flags).map_or(Self::Malformed, Self::SetStepFlags),
                None => Self::Unknown,
            },
        }
    }

    fn set(rest: &str) -> Self {
        if rest == "StartNoAckMode" {
            return Self::StartNoAckMode;
        }
        if let Some(mode) = rest.strip_prefix("qemu.PhyMemMode:") {
            return number(mode).map_or(Self::Malformed, |mode| Self::SetPhysical(mode != 0));
        }
        match rest.strip_prefix("qemu.sstep:").or_else(|| rest.strip_prefix("qemu.sstep=")) {
            Some(flags) => number(flags).map_or(Self::Malformed, Self::SetStepFlags),
            None => Self::Unknown,
        }
    }
}

fn index(text: &str) -> Option<usize> {
    usize::try_from(number(text)?).ok()
}

/// `ADDRESS,LENGTH`
fn range(text: &str) -> Option<(u64, usize)> {
    let (address, len) = text.split_once(',')?;
    Some((number(address)?, index(len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Request {
        Request::parse(text.as_bytes())
    }

    #[test]
    fn requests_are_understood() {
        assert_eq!(parse("mffffffff81000000,10"), Request::ReadMemory { address: 0xffff_ffff_8100_0000, len: 16 });
        assert_eq!(parse("M10,2:aB00"), Request::WriteMemory { address: 16, bytes: vec![0xab, 0] });
        assert_eq!(Request::parse(b"X10,2:\xff:"), Request::WriteMemory { address: 16, bytes: vec![0xff, b':'] });
        let point = Request::Point { is_set: true, kind: PointKind::Execute, address: 0x1000, len: 1 };
        assert_eq!(parse("Z0,1000,1"), point);
        assert_eq!(parse("Z1,1000,1;X3,220027"), point);
        assert_eq!(parse("Hgp1.2"), Request::Select(Thread::One(1)));
        assert_eq!(parse("Hc-1"), Request::Select(Thread::All));
        assert_eq!(parse("s"), Request::Resume(Action::Step, None));
        assert_eq!(parse("C05;1000"), Request::Resume(Action::Continue, Some(0x1000)));
        let actions = vec![(Action::Step, Thread::One(0)), (Action::Continue, Thread::All)];
        assert_eq!(parse("vCont;s:p1.1;c:p1.-1"), Request::Continue(actions));
        assert_eq!(parse("vCont;c"), Request::Continue(vec![(Action::Continue, Thread::All)]));
        let features = Request::ReadFeatures { name: "target.xml".into(), offset: 0, len: 0xffb };
        assert_eq!(parse("qXfer:features:read:target.xml:0,ffb"), features);
        assert_eq!(parse("qRcmd,696e666f"), Request::Monitor("info".into()));
        assert_eq!(parse("Qqemu.PhyMemMode:1"), Request::SetPhysical(true));
        assert_eq!(parse("Qqemu.sstep=7"), Request::SetStepFlags(7));
        assert_eq!(parse("qThreadExtraInfo,2"), Request::ThreadInfo(Thread::One(1)));
    }

    #[test]
    fn wrong_arguments_and_unknown_requests_are_told_apart() {
        for text in ["m1", "m+1,1", "M1,2:00", "Z0", "Z0,zz,1", "p", "P=0", "T", "vCont;x", "vCont;c:q", "qRcmd,0"] {
            assert_eq!(parse(text), Request::Malformed, "{text}");
        }
        for text in ["", "w", "Z9,0,0", "vMustReplyEmpty", "qTStatus", "QNonStop:1", "qXfer:auxv:read::0,1", "R"] {
            assert_eq!(parse(text), Request::Unknown, "{text}");
        }
    }
}

//! `-accel`, `-machine accel=`, `-enable-kvm`, `-singlestep`, `-icount`: what runs the vCPUs. Several are tried in
//! turn, and what each says goes to standard error as QEMU has it.

use accel::AccelError;
use machine::TranslatorConfig;
use machine::accelerator::{AcceleratorConfig, KernelIrqchip};
use machine::icount::{Align, IcountConfig, Idle, Shift};
use machine::vcpu::Threads;

use super::arguments::{all, given, last};
use super::value::Values;
use super::{Argument, CliError, Line};

/// What `-accel help` lists.
pub const NAMES: [&str; 2] = ["tcg", "kvm"];

/// What `-machine` says about accelerators.
#[derive(Debug, Default)]
pub struct MachineSettings {
    /// `accel=`: names with colons in between.
    pub list: Option<String>,
    /// `kernel-irqchip=`: for KVM, if it is used.
    pub kernel_irqchip: Option<String>,
}

/// The accelerator that works, and how it runs vCPUs.
#[derive(Debug)]
pub struct Chosen {
    pub accelerator: AcceleratorConfig,
    pub threads: Threads,
    pub icount: Option<IcountConfig>,
}

/// Opens KVM. A parameter of [`settings`], so that tests can do without.
pub type OpenKvm<'a> = dyn Fn(KernelIrqchip) -> Result<AcceleratorConfig, AccelError> + 'a;

/// Reads the options and opens the first accelerator that can be had. `lines` gets what those before it say.
pub fn settings(
    arguments: &[Argument<'_>],
    machine: &MachineSettings,
    open_kvm: &OpenKvm<'_>,
    lines: &mut Vec<Line>,
) -> Result<Chosen, CliError> {
    let icount = last(arguments, "icount").map(icount).transpose()?.flatten();
    let context =
        Context { machine, open_kvm, with_icount: icount.is_some(), one_insn_per_tb: given(arguments, "singlestep") };
    let options: Vec<_> = all(arguments, "accel").collect();
    let found = match &machine.list {
        Some(_) if !options.is_empty() => {
            return Err(CliError::plain("The -accel and \"-machine accel=\" options are incompatible"));
        }
        Some(list) => context.first_of_list(list, lines)?,
        None if options.is_empty() => Some(context.software()),
        None => context.first_of_options(&options, lines)?,
    };
    let Some(Candidate { accelerator, threads }) = found else {
        return Err(CliError::NoAccelerator(std::mem::take(lines)));
    };
    if !lines.is_empty() {
        lines.push(Line::Named(format!("falling back to {}", accelerator.name())));
    }
    if icount.is_some() && matches!(accelerator, AcceleratorConfig::Opened(_)) {
        return Err(CliError::plain("-icount is not allowed with hardware virtualization"));
    }
    if icount.is_some() && matches!(accelerator, AcceleratorConfig::Qtest) {
        return Err(CliError::plain("-icount counts instructions, and with qtest none are executed"));
    }
    Ok(Chosen { accelerator, threads, icount })
}

struct Candidate {
    accelerator: AcceleratorConfig,
    threads: Threads,
}

impl Candidate {
    fn qtest() -> Self {
        Self { accelerator: AcceleratorConfig::Qtest, threads: Threads::Multi }
    }
}

struct Context<'a> {
    machine: &'a MachineSettings,
    open_kvm: &'a OpenKvm<'a>,
    with_icount: bool,
    one_insn_per_tb: bool,
}

impl Context<'_> {
    fn software(&self) -> Candidate {
        let translator = TranslatorConfig { one_insn_per_tb: self.one_insn_per_tb, ..TranslatorConfig::default() };
        Candidate { accelerator: AcceleratorConfig::Software(translator), threads: Threads::Multi }
    }

    /// `-machine accel=kvm:tcg`.
    fn first_of_list(&self, list: &str, lines: &mut Vec<Line>) -> Result<Option<Candidate>, CliError> {
        for name in list.split(':').filter(|name| !name.is_empty()) {
            match name {
                "tcg" => return Ok(Some(self.software())),
                "qtest" => return Ok(Some(Candidate::qtest())),
                "kvm" => match self.kvm(None)? {
                    Ok(candidate) => return Ok(Some(candidate)),
                    Err(error) => refused("", &error, lines),
                },
                other => lines.push(Line::Named(format!("invalid accelerator {other}"))),
            }
        }
        Ok(None)
    }

    /// One `-accel` after the other.
    fn first_of_options(
        &self,
        options: &[&Argument<'_>],
        lines: &mut Vec<Line>,
    ) -> Result<Option<Candidate>, CliError> {
        for argument in options {
            let mut values = Values::parse(**argument, Some("accel"))?;
            let name = values.required("accel")?;
            let mut values = values.of_class(&format!("{name}-accel"));
            match name.as_str() {
                "tcg" => {
                    let candidate = self.software_with(&mut values)?;
                    values.finish()?;
                    return Ok(Some(candidate));
                }
                "qtest" => {
                    values.finish()?;
                    return Ok(Some(Candidate::qtest()));
                }
                "kvm" => {
                    let irqchip = values.text("kernel-irqchip")?;
                    let opened = self.kvm(irqchip.as_deref().map(|irqchip| (*argument, irqchip)));
                    values.finish()?;
                    match opened? {
                        Ok(candidate) => return Ok(Some(candidate)),
                        Err(error) => refused(&format!("-accel {}: ", argument.value), &error, lines),
                    }
                }
                _ => lines.push(Line::Named(argument.error(format!("invalid accelerator {name}")).to_string())),
            }
        }
        Ok(None)
    }

    /// `-accel tcg,…`.
    fn software_with(&self, values: &mut Values<'_>) -> Result<Candidate, CliError> {
        let Candidate { accelerator, threads: default } = self.software();
        let AcceleratorConfig::Software(mut translator) = accelerator else { return Ok(self.software()) };
        let threads = match values.text("thread")?.as_deref() {
            None => default,
            Some("single") => Threads::Single,
            Some("multi") if self.with_icount => return Err(values.error("No MTTCG when icount is enabled")),
            Some("multi") => Threads::Multi,
            Some(other) => return Err(values.error(format!("Invalid 'thread' setting {other}"))),
        };
        if let Some(size) = values.text("tb-size")? {
            let mib = qapi::keyval::parse_u64(&size).filter(|mib| *mib <= u64::from(u32::MAX));
            let mib = mib.ok_or_else(|| values.error("Parameter 'tb-size' expects uint64"))?;
            translator.code_bytes = (mib as usize) << 20;
        }
        if let Some(one) = values.flag("one-insn-per-tb")? {
            translator.one_insn_per_tb = one;
        }
        if values.flag("split-wx")? == Some(false) {
            return Err(values.error("code memory always has separate mappings for writing and executing"));
        }
        if let Some(lockstep) = values.flag("x-lockstep")? {
            translator.lockstep = lockstep;
        }
        if let Some(enabled) = values.flag("x-translator")? {
            translator.enabled = enabled;
        }
        Ok(Candidate { accelerator: AcceleratorConfig::Software(translator), threads })
    }

    /// Opens KVM with the irqchip of its own option, or with that of `-machine`.
    fn kvm(&self, irqchip: Option<(&Argument<'_>, &str)>) -> Result<Result<Candidate, AccelError>, CliError> {
        let refuse = |value: &str| format!("Parameter 'kernel-irqchip' does not accept value '{value}'");
        let irqchip = match (irqchip, self.machine.kernel_irqchip.as_deref()) {
            (Some((argument, value)), _) => kernel_irqchip(value).ok_or_else(|| argument.error(refuse(value)))?,
            (None, Some(value)) => kernel_irqchip(value).ok_or_else(|| CliError::plain(refuse(value)))?,
            (None, None) => KernelIrqchip::default(),
        };
        Ok((self.open_kvm)(irqchip).map(|accelerator| Candidate { accelerator, threads: Threads::Multi }))
    }
}

fn kernel_irqchip(value: &str) -> Option<KernelIrqchip> {
    Some(match value {
        "on" => KernelIrqchip::On,
        "off" => KernelIrqchip::Off,
        "split" => KernelIrqchip::Split,
        _ => return None,
    })
}

/// KVM can't be had: QEMU's two lines.
fn refused(option: &str, error: &AccelError, lines: &mut Vec<Line>) {
    lines.push(Line::Plain(error.to_string()));
    let reason = error.host_error().map_or_else(|| error.to_string(), vm::host_error);
    lines.push(Line::Named(format!("{option}failed to initialize kvm: {reason}")));
}

/// `-icount [shift=]N|auto[,align=on|off][,sleep=on|off]`. Without a shift nothing is counted, as in QEMU.
fn icount(argument: &Argument<'_>) -> Result<Option<IcountConfig>, CliError> {
    const SHIFT_MAX: u64 = 10;
    let mut values = Values::parse(*argument, Some("shift"))?;
    let shift = values.text("shift")?;
    let align = values.flag("align")?;
    let sleep = values.flag("sleep")?.unwrap_or(true);
    for key in ["rr", "rrfile", "rrsnapshot"] {
        if values.text(key)?.is_some() {
            return Err(argument.error("record and replay (rr) is not available"));
        }
    }
    values.finish()?;
    let Some(shift) = shift else {
        return match align {
            Some(_) => Err(argument.error("Please specify shift option when using align")),
            None => Ok(None),
        };
    };
    if align == Some(true) && !sleep {
        return Err(argument.error("align=on and sleep=off are incompatible"));
    }
    let shift = match shift.as_str() {
        "auto" => Shift::Auto,
        number => {
            let number = qapi::keyval::parse_u64(number).filter(|number| *number <= SHIFT_MAX);
            Shift::Fixed(number.ok_or_else(|| argument.error("icount: Invalid shift value"))? as u32)
        }
    };
    Ok(Some(IcountConfig {
        shift,
        idle: if sleep { Idle::Wait } else { Idle::Skip },
        align: if align == Some(true) { Align::Wait } else { Align::Free },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::split;

    /// What is chosen on a host without KVM, or the error, and what is printed.
    fn choose(line: &str, machine: &MachineSettings) -> (Result<Chosen, String>, Vec<Line>) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let arguments = split(&words).expect("options");
        let missing = |_: KernelIrqchip| Err(AccelError::host("no KVM here", std::io::Error::from_raw_os_error(2)));
        let mut lines = Vec::new();
        match settings(&arguments, machine, &missing, &mut lines) {
            Ok(chosen) => (Ok(chosen), lines),
            Err(CliError::NoAccelerator(lines)) => (Err(String::new()), lines),
            Err(error) => (Err(error.to_string()), lines),
        }
    }

    fn translator(line: &str) -> TranslatorConfig {
        match choose(line, &MachineSettings::default()).0 {
            Ok(Chosen { accelerator: AcceleratorConfig::Software(translator), .. }) => translator,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn list(list: &str) -> MachineSettings {
        MachineSettings { list: Some(list.to_owned()), kernel_irqchip: None }
    }

    #[test]
    fn kvm_that_can_not_be_had_falls_back_to_the_next_with_qemus_lines() {
        let named = |text: &str| Line::Named(text.to_owned());
        let plain = Line::Plain("no KVM here".to_owned());
        let back = named("falling back to tcg");
        let failed = |prefix: &str| named(&format!("{prefix}failed to initialize kvm: No such file or directory"));
        let none = MachineSettings::default();

        let (chosen, lines) = choose("-accel kvm,kernel-irqchip=split -accel tcg", &none);
        assert_eq!(chosen.expect("falls back").accelerator.name(), "tcg");
        assert_eq!(lines, [plain.clone(), failed("-accel kvm,kernel-irqchip=split: "), back.clone()]);

        let (chosen, lines) = choose("", &list("kvm:foo:tcg"));
        assert_eq!(chosen.expect("falls back").accelerator.name(), "tcg");
        assert_eq!(lines, [plain.clone(), failed(""), named("invalid accelerator foo"), back]);

        let (chosen, lines) = choose("-accel kvm", &none);
        assert_eq!(chosen.expect_err("no accelerator"), "");
        assert_eq!(lines, [plain, failed("-accel kvm: ")]);
    }

    #[test]
    fn wrong_options_are_refused_whatever_could_follow() {
        let none = MachineSettings::default();
        for (line, expected) in [
            ("-accel tcg,thread=foo", "Invalid 'thread' setting foo"),
            ("-accel tcg,tb-size=x", "Parameter 'tb-size' expects uint64"),
            ("-accel tcg,foo=1", "Property 'tcg-accel.foo' not found"),
            ("-accel kvm,foo=1 -accel tcg", "Property 'kvm-accel.foo' not found"),
            ("-accel kvm,kernel-irqchip=foo -accel tcg", "Parameter 'kernel-irqchip' does not accept value 'foo'"),
            ("-icount 1 -accel tcg,thread=multi", "No MTTCG when icount is enabled"),
            ("-icount 11", "icount: Invalid shift value"),
            ("-icount align=on", "Please specify shift option when using align"),
            ("-icount 1,align=on,sleep=off", "align=on and sleep=off are incompatible"),
            ("-icount 1,rr=record,rrfile=x", "record and replay (rr) is not available"),
        ] {
            let error = choose(line, &none).0.expect_err(line);
            assert!(error.ends_with(expected), "{line}: {error}");
        }
        let error = choose("-accel tcg", &list("tcg")).0.expect_err("both");
        assert_eq!(error, "The -accel and \"-machine accel=\" options are incompatible");
    }

    #[test]
    fn settings_of_the_software_cpu_reach_it() {
        let default = TranslatorConfig::default();
        assert_eq!(translator(""), default);
        assert_eq!(translator("-accel tcg,tb-size=32"), TranslatorConfig { code_bytes: 32 << 20, ..default });
        assert_eq!(
            translator("-accel tcg,one-insn-per-tb=on,x-lockstep=on"),
            TranslatorConfig { one_insn_per_tb: true, lockstep: true, ..default }
        );
        assert_eq!(translator("-singlestep"), TranslatorConfig { one_insn_per_tb: true, ..default });
        assert_eq!(translator("-accel tcg,x-translator=off"), TranslatorConfig { enabled: false, ..default });
        let single = choose("-accel tcg,thread=single", &MachineSettings::default()).0.expect("chosen");
        assert_eq!(single.threads, Threads::Single);
    }

    #[test]
    fn icount_says_how_long_instructions_take_and_what_idle_time_does() {
        let icount = |line: &str| choose(line, &MachineSettings::default()).0.expect(line).icount;
        let config = IcountConfig { shift: Shift::Fixed(7), idle: Idle::Wait, align: Align::Free };
        assert_eq!(icount("-icount 7"), Some(config));
        assert_eq!(icount("-icount shift=auto,sleep=off"), {
            Some(IcountConfig { shift: Shift::Auto, idle: Idle::Skip, ..config })
        });
        assert_eq!(icount("-icount 7,align=on"), Some(IcountConfig { align: Align::Wait, ..config }));
        assert_eq!(icount("-icount sleep=off"), None);
    }
}

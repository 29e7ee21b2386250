//! `-smp` and `-machine smp.…`: the vCPUs and their topology.

use machine::config::MachineType;
use x86::model::Topology;

use super::CliError;
use super::value::Values;

/// What the options say. What is 0 was not given.
#[derive(Default)]
pub struct Smp {
    cpus: Option<u32>,
    maxcpus: Option<u32>,
    sockets: Option<u32>,
    dies: Option<u32>,
    clusters: Option<u32>,
    cores: Option<u32>,
    threads: Option<u32>,
    has_zeroes: bool,
}

impl Smp {
    /// Reads one option; a later one counts.
    ///
    /// # Errors
    /// A value is no number, or there is no such key.
    pub fn add(&mut self, mut values: Values<'_>) -> Result<(), CliError> {
        for (key, slot) in [
            ("cpus", &mut self.cpus),
            ("maxcpus", &mut self.maxcpus),
            ("sockets", &mut self.sockets),
            ("dies", &mut self.dies),
            ("clusters", &mut self.clusters),
            ("cores", &mut self.cores),
            ("threads", &mut self.threads),
        ] {
            if let Some(number) = values.number(key, u64::from(u32::MAX))? {
                self.has_zeroes |= number == 0;
                *slot = Some(number as u32).filter(|number| *number != 0);
            }
        }
        values.finish().map_err(|error| match error {
            CliError::Option { message, .. } => {
                let name = message.split('\'').nth(1).unwrap_or_default();
                CliError::plain(format!("Parameter 'smp.{name}' is unexpected"))
            }
            other => other,
        })
    }

    /// The vCPUs at start, and the topology: what was not given follows from the rest.
    ///
    /// # Errors
    /// The numbers contradict each other, or the machine can't have so many.
    pub fn complete(&self, machine: &MachineType, warnings: &mut Vec<String>) -> Result<(u32, Topology), CliError> {
        let invalid = |text: String| Err(CliError::plain(format!("Invalid CPU topology: {text}")));
        if self.has_zeroes {
            let text =
                "Deprecated CPU topology (considered invalid): CPU topology parameters must be greater than zero";
            warnings.push(text.to_owned());
        }
        if self.clusters.is_some_and(|clusters| clusters > 1) {
            return Err(CliError::plain("clusters not supported by this machine's CPU topology"));
        }
        let total = self.maxcpus.or(self.cpus);
        let topology = self.topology(total, machine);
        let Topology { sockets, dies, cores, threads } = topology;
        let product = product([sockets, dies, cores, threads]);
        let max = total.map_or(product, u64::from);
        let cpus = self.cpus.map_or(max, u64::from);
        let hierarchy = format!("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads})");
        if product != max {
            return invalid(format!("product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({max})"));
        }
        if cpus > max {
            return invalid(format!(
                "maxcpus must be equal to or greater than smp: {hierarchy} == maxcpus ({max}) < smp_cpus ({cpus})"
            ));
        }
        if max > u64::from(machine.max_cpus()) {
            let (name, most) = (machine.name, machine.max_cpus());
            return Err(CliError::plain(format!(
                "Invalid SMP CPUs {max}. The max CPUs supported by machine '{name}' is {most}"
            )));
        }
        Ok((cpus as u32, topology))
    }

    /// One number gets what is left of the whole by the others: threads if they are all that is missing, else cores,
    /// or sockets with machine types that prefer them.
    fn topology(&self, total: Option<u32>, machine: &MachineType) -> Topology {
        let dies = self.dies.unwrap_or(1);
        let rest = |others: [u32; 3]| total.map_or(1, |total| (u64::from(total) / product(others)) as u32);
        let one_thread = self.threads.unwrap_or(1);
        let of_sockets = |sockets| (sockets, rest([sockets, dies, one_thread]), one_thread);
        let of_cores = |cores| (rest([dies, cores, one_thread]), cores, one_thread);
        let (sockets, cores, threads) = match (self.sockets, self.cores) {
            (Some(sockets), Some(cores)) => {
                (sockets, cores, self.threads.unwrap_or_else(|| rest([sockets, dies, cores])))
            }
            (Some(sockets), None) => of_sockets(sockets),
            (None, Some(cores)) => of_cores(cores),
            (None, None) if machine.prefers_sockets() => of_cores(1),
            (None, None) => of_sockets(1),
        };
        Topology { sockets, dies, cores, threads }
    }
}

/// With numbers that are all 1 or more.
fn product<const N: usize>(numbers: [u32; N]) -> u64 {
    numbers.into_iter().map(u64::from).fold(1, u64::saturating_mul)
}

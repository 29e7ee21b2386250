//! `query-stats`: what the host's kernel counts.

use ::machine::Machine;
use accel::{Statistic, StatisticKind, StatisticUnit};
use qapi::stats::{
    QueryStats, QueryStatsSchemas, Stats, StatsFilter, StatsProvider, StatsRequest, StatsResult, StatsSchema,
    StatsSchemaValue, StatsTarget, StatsType, StatsUnit, StatsValue,
};

use super::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryStats>(|control, _, wanted| {
        let everything = [StatsRequest { provider: StatsProvider::Kvm, names: None }];
        let requests = wanted.providers.as_deref().unwrap_or(&everything);
        // As in QEMU, everything is told with the newest first.
        Ok(requests.iter().rev().flat_map(|request| results(control.machine(), &wanted.filter, request)).collect())
    });
    // There is but one provider.
    table.register::<QueryStatsSchemas>(|control, _, _| Ok(schemas(control.machine())));
}

/// What statistics there are.
pub fn schemas(machine: &Machine) -> Vec<StatsSchema> {
    let of_vcpu = machine.vcpus().with(0, |cpu| cpu.statistics()).flatten();
    let all = [(StatsTarget::Vcpu, of_vcpu), (StatsTarget::Vm, machine.accelerator().statistics())];
    let schema = |(target, statistics): (StatsTarget, Option<Vec<Statistic>>)| {
        let stats = statistics?.iter().rev().map(described).collect();
        Some(StatsSchema { provider: StatsProvider::Kvm, target, stats })
    };
    all.into_iter().filter_map(schema).collect()
}

fn results(machine: &Machine, filter: &StatsFilter, request: &StatsRequest) -> Vec<StatsResult> {
    let is_wanted = |statistic: &&Statistic| request.names.as_ref().is_none_or(|names| names.contains(&statistic.name));
    let result = |qom_path: Option<String>, statistics: Vec<Statistic>| {
        let stats: Vec<_> = statistics.iter().rev().filter(is_wanted).map(value).collect();
        (!stats.is_empty()).then_some(StatsResult { provider: request.provider, qom_path, stats })
    };
    match filter {
        StatsFilter::Vm => {
            machine.accelerator().statistics().and_then(|statistics| result(None, statistics)).into_iter().collect()
        }
        StatsFilter::Vcpu(filter) => {
            let of_vcpu = |(index, path): (usize, String)| {
                let is_asked = filter.vcpus.as_ref().is_none_or(|paths| paths.contains(&path));
                let statistics = machine.vcpus().with(index, |cpu| cpu.statistics()).flatten();
                result(Some(path), statistics.filter(|_| is_asked)?)
            };
            let slots = machine.cpu_slots().iter().enumerate();
            slots.rev().filter_map(|(index, slot)| of_vcpu((index, slot.path.clone()?))).collect()
        }
    }
}

fn value(statistic: &Statistic) -> Stats {
    let first = statistic.values.first().copied().unwrap_or(0);
    let value = match statistic.kind {
        StatisticKind::LinearHistogram(_) | StatisticKind::LogHistogram => StatsValue::List(statistic.values.clone()),
        _ if statistic.unit == StatisticUnit::Boolean => StatsValue::Boolean(first != 0),
        _ => StatsValue::Scalar(first),
    };
    Stats { name: statistic.name.clone(), value }
}

fn described(statistic: &Statistic) -> StatsSchemaValue {
    let (r#type, bucket_size) = match statistic.kind {
        StatisticKind::Cumulative => (StatsType::Cumulative, None),
        StatisticKind::Instant => (StatsType::Instant, None),
        StatisticKind::Peak => (StatsType::Peak, None),
        StatisticKind::LinearHistogram(size) => (StatsType::LinearHistogram, Some(size)),
        StatisticKind::LogHistogram => (StatsType::Log2Histogram, None),
    };
    let unit = match statistic.unit {
        StatisticUnit::None => None,
        StatisticUnit::Bytes => Some(StatsUnit::Bytes),
        StatisticUnit::Seconds => Some(StatsUnit::Seconds),
        StatisticUnit::Cycles => Some(StatsUnit::Cycles),
        StatisticUnit::Boolean => Some(StatsUnit::Boolean),
    };
    StatsSchemaValue {
        name: statistic.name.clone(),
        r#type,
        unit,
        base: (statistic.exponent != 0).then_some(statistic.base.cast_signed()),
        exponent: statistic.exponent,
        bucket_size,
    }
}

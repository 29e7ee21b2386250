//! The steps of a NUMA configuration, from the schema to the machine.

use machine::numa::{CacheOption, CpuOption, DataType, LatencyBandwidthOption, NodeOption, NumaOption};
use qapi::Size;
use qapi::cpu::CpuInstanceProperties;
use qapi::machine::{HmatLBDataType, NumaOptions};

/// What the schema's type says, in the machine's words.
pub fn step(options: NumaOptions) -> NumaOption {
    match options {
        NumaOptions::Node(node) => NumaOption::Node(NodeOption {
            node: node.nodeid,
            cpus: node.cpus.unwrap_or_default(),
            memory: node.mem.map(|Size(size)| size),
            backend: node.memdev,
            initiator: node.initiator,
        }),
        NumaOptions::Dist(distance) => {
            NumaOption::Distance { source: distance.src, destination: distance.dst, value: distance.val }
        }
        NumaOptions::Cpu(CpuInstanceProperties { node_id, socket_id, die_id, cluster_id, core_id, thread_id }) => {
            NumaOption::Cpu(CpuOption {
                node: node_id,
                socket: socket_id,
                die: die_id,
                cluster: cluster_id,
                core: core_id,
                thread: thread_id,
            })
        }
        NumaOptions::HmatLb(told) => NumaOption::LatencyBandwidth(LatencyBandwidthOption {
            initiator: told.initiator,
            target: told.target,
            hierarchy: told.hierarchy as u8,
            data_type: data_type(told.data_type),
            latency: told.latency,
            bandwidth: told.bandwidth.map(|Size(size)| size),
        }),
        NumaOptions::HmatCache(cache) => NumaOption::Cache(CacheOption {
            node: cache.node_id,
            size: cache.size.0,
            level: cache.level,
            associativity: cache.associativity as u8,
            policy: cache.policy as u8,
            line: cache.line,
        }),
    }
}

fn data_type(told: HmatLBDataType) -> DataType {
    match told {
        HmatLBDataType::AccessLatency => DataType::AccessLatency,
        HmatLBDataType::ReadLatency => DataType::ReadLatency,
        HmatLBDataType::WriteLatency => DataType::WriteLatency,
        HmatLBDataType::AccessBandwidth => DataType::AccessBandwidth,
        HmatLBDataType::ReadBandwidth => DataType::ReadBandwidth,
        HmatLBDataType::WriteBandwidth => DataType::WriteBandwidth,
    }
}

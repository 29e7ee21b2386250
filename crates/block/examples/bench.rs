//! Requests of one size through the whole block layer, as `qemu-img bench` makes them.
//!
//! `bench FILE read|write DEPTH COUNT SIZE STEP [name=value…]`: the options are the node's, such as `file.aio=threads`.
//! Request *n* goes to offset *n* × STEP modulo the size of the image. Prints operations per second and CPU time of all
//! threads per operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags};
use iobuf::IoBuf;

struct Run {
    child: Arc<Child>,
    write: bool,
    size: u64,
    step: u64,
    count: u64,
    next: AtomicU64,
}

async fn worker(run: Arc<Run>) -> block::Result<()> {
    let buf = IoBuf::zeroed(usize::try_from(run.size).expect("a plausible size"));
    let space = run.child.len() - run.size + 1;
    loop {
        let n = run.next.fetch_add(1, Ordering::Relaxed);
        if n >= run.count {
            return Ok(());
        }
        let offset = n * run.step % space / run.size * run.size;
        if run.write {
            run.child.write(offset, buf.clone(), WriteFlags::default()).await?;
        } else {
            run.child.read(offset, buf.clone()).await?;
        }
    }
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, mode, depth, count, size, step, options @ ..] = &arguments[..] else {
        return Err("usage: bench FILE read|write DEPTH COUNT SIZE STEP [name=value…]".into());
    };
    let mut node =
        Options::new().with("driver", "raw").with("file.driver", "file").with("file.filename", file.as_str());
    for option in options {
        let (name, value) = option.split_once('=').ok_or("an option is name=value")?;
        node.set(name, value);
    }
    let graph = Graph::new(Registry::new(block::builtin_drivers()));
    let node = aio::block_on(graph.open(node, Defaults::new(NodeConfig::default(), OpenFlags::default())))?;
    let used = Permissions::CONSISTENT_READ | Permissions::WRITE;
    let child = graph.attach_root(&node, "bench", used, Permissions::ALL)?;
    let run = Arc::new(Run {
        child: Arc::clone(&child),
        write: mode == "write",
        size: size.parse()?,
        step: step.parse()?,
        count: count.parse()?,
        next: AtomicU64::new(0),
    });
    let (start, cpu) = (Instant::now(), cpu_seconds());
    aio::block_on(async {
        let workers: Vec<_> = (0..depth.parse::<u32>()?).map(|_| aio::spawn(worker(Arc::clone(&run)))).collect();
        for worker in workers {
            worker.await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let count = run.count as f64;
    println!("{:.0} iops, {:.2} us CPU per operation", count / seconds, cpu / count * 1e6);
    aio::block_on(graph.detach(&child))?;
    Ok(())
}

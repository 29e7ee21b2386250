//! `bitmap`: makes, removes and changes the dirty bitmaps that an image stores. Copying them is part of `convert`.

use std::sync::Arc;

use block::{NewBitmap, Node, Value};
use block_tools::open::Access;
use block_tools::status;

use crate::cli::{Failure, Outcome, Parsed, parse};
use crate::tool::{self, Tool};

const ACTIONS: [&str; 6] = ["add", "remove", "clear", "enable", "disable", "merge"];

/// Runs the command.
pub fn run(args: &[String]) -> Outcome {
    let long = [
        ("help", false, "h"),
        ("object", true, "object"),
        ("image-opts", false, "image-opts"),
        ("add", false, "add"),
        ("remove", false, "remove"),
        ("clear", false, "clear"),
        ("enable", false, "enable"),
        ("disable", false, "disable"),
        ("merge", true, "merge"),
        ("granularity", true, "g"),
        ("source-file", true, "b"),
        ("source-format", true, "F"),
    ];
    let parsed = parse(args, "b:f:F:g:h", &long)?;
    let granularity = parsed.value("g").map(|text| crate::cli::size("granularity", text)).transpose()?;
    let granularity = granularity.filter(|granularity| *granularity != 0);
    let refuse = |condition: bool, message: &str| if condition { Err(Failure::new(message)) } else { Ok(()) };
    refuse(
        !parsed.options().any(|(name, _)| ACTIONS.contains(&name)),
        "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
    )?;
    refuse(granularity.is_some() && !parsed.has("add"), "granularity only supported with --add")?;
    refuse(parsed.has("F") && !parsed.has("b"), "-F only supported with -b")?;
    refuse(parsed.has("b") && !parsed.has("merge"), "Merge bitmap source file only supported with --merge")?;
    let [filename, name] = &parsed.operands[..] else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    let tool = Tool::new(&parsed)?;
    let mut access = Access { write: true, ..Access::default() };
    access.flags.no_backing = true;
    aio::block_on(async {
        let child = tool.open(filename, parsed.value("f"), access).await?;
        access.write = false;
        let source = match parsed.value("b") {
            Some(file) => tool.open_file(file, parsed.value("F"), access).await.map(Some),
            None => Ok(None),
        };
        let result = match &source {
            Ok(source) => {
                let node = child.node();
                let from = source.as_ref().map_or_else(|| Arc::clone(&node), |source| source.node());
                act(&parsed, &node, &from, name, granularity).await
            }
            Err(_) => Ok(()),
        };
        let mut closed = Ok(());
        if let Ok(Some(source)) = &source {
            closed = tool.close(source).await;
        }
        closed = tool.close(&child).await.and(closed);
        source?;
        result?;
        closed?;
        Ok(0)
    })
}

/// Does what the options say, in their order.
async fn act(
    parsed: &Parsed,
    node: &Arc<Node>,
    source: &Arc<Node>,
    name: &str,
    granularity: Option<u64>,
) -> Result<(), Failure> {
    for (action, value) in parsed.options().filter(|(action, _)| ACTIONS.contains(action)) {
        let bitmaps = node.bitmaps();
        let result = match action {
            "add" => node.add_bitmap(name, NewBitmap { granularity, persistent: true, disabled: false }).map(|_| ()),
            "remove" => node.remove_bitmap(name).await,
            "clear" => bitmaps.named(name).and_then(|bitmap| bitmap.clear()),
            "enable" => bitmaps.named(name).and_then(|bitmap| bitmap.enable()),
            "disable" => bitmaps.named(name).and_then(|bitmap| bitmap.disable()),
            _ => bitmaps.named(name).and_then(|bitmap| bitmap.merge(&*source.bitmaps().named(value)?)),
        };
        result.map_err(|error| Failure::from(error.context(format!("Operation {action} on bitmap {name} failed"))))?;
    }
    Ok(())
}

/// Whether the bitmaps of an image can be copied.
pub fn check_source(source: &Arc<Node>, skip_broken: bool) -> Result<(), Failure> {
    let source = status::skip_filters(source);
    if !stores_bitmaps(&source) {
        return Err(Failure::new("Source lacks bitmap support"));
    }
    for bitmap in source.bitmaps().list() {
        if bitmap.is_persistent() && bitmap.is_inconsistent() && !skip_broken {
            let (name, program) = (bitmap.name().unwrap_or_default(), tool::program());
            return Err(Failure::new(format!(
                "Cannot copy inconsistent bitmap '{name}'\n\
                 Try --skip-broken-bitmaps, or use '{program} bitmap --remove' to delete it"
            )));
        }
    }
    Ok(())
}

/// Whether images of this format, in the version that this one has, store bitmaps.
pub fn stores_bitmaps(node: &Arc<Node>) -> bool {
    let specific = node.driver().details().specific.map(|(_, data)| data);
    let old = specific.is_some_and(|data| data.get("compat") == Some(&Value::from("0.10")));
    !old && !node.driver().can_store_bitmap("bitmap", 65536).is_err_and(|error| error.is_unsupported())
}

/// Copies the stored bitmaps.
pub fn copy(source: &Arc<Node>, target: &Arc<Node>) -> Result<(), Failure> {
    let (source, target) = (status::skip_filters(source), status::skip_filters(target));
    for bitmap in source.bitmaps().list().into_iter().filter(|bitmap| bitmap.is_persistent()) {
        let name = bitmap.name().unwrap_or_default();
        if bitmap.is_inconsistent() {
            tool::warn(format!("Skipping inconsistent bitmap '{name}'"));
            continue;
        }
        let new =
            NewBitmap { granularity: Some(bitmap.granularity()), persistent: true, disabled: !bitmap.is_enabled() };
        let made = target
            .add_bitmap(&name, new)
            .map_err(|error| Failure::from(error.context(format!("Failed to create bitmap {name}"))))?;
        if let Err(error) = made.merge(&bitmap) {
            target.bitmaps().release(&made);
            return Err(Failure::from(error.context(format!("Failed to populate bitmap {name}"))));
        }
    }
    Ok(())
}

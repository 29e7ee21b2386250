//! The help.

/// Prints the help.
pub fn print() -> u8 {
    let program = crate::tool::program();
    out!(
        "{program} version {} (Ouzel)\n\
         usage: {program} [standard options] command [command options]\n\n    \
         '-h', '--help'       show this text\n    \
         '-V', '--version'    show the version\n\n\
         Commands:\n{COMMANDS}\n{TERMS}",
        env!("CARGO_PKG_VERSION")
    );
    let names: Vec<&str> = block_drivers::drivers().iter().map(|driver| driver.name()).collect();
    outln!("\nSupported formats: {}", names.join(" "));
    0
}

const COMMANDS: &str = "\
  amend [--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename
  bench [-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] \
[--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename
  bitmap (--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] \
[-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap
  check [--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename
  commit [--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename
  compare [--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2
  convert [--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [-U] [-C] [-c] [-p] [-q] [-n] \
[--bitmaps [--skip-broken-bitmaps]] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] \
[-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename
  create [--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]
  dd [--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output
  info [--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename
  map [--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename
  measure [--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [-f fmt] \
[-l snapshot_param] filename]
  rebase [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] -b backing_file \
[-F backing_fmt] filename
  resize [--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size
  snapshot [--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename
";

const TERMS: &str = "\
Terms:
  objectdef     an object, as secret,id=ID,data=TEXT or secret,id=ID,file=PATH (also format=base64)
  fmt           a format; without it the format is guessed
  cache         none, writeback (the default), writethrough, directsync or unsafe (the default of convert)
  size          bytes, or with a suffix k, M, G, T, P, E
  options       name=value[,name=value...]; '-o help' lists those of a format
  ofmt          human or json
  -p            show progress; without it SIGUSR1 prints it once
  -q            print errors only
  -U            open the image although somebody else uses it
  -u            create and rebase: leave the backing file unopened
  -S            convert: runs of zeroes of this length stay holes (4k); 0 writes everything
  -n            convert: the target exists
  -C            convert: let the host copy, where both are plain files
  --bitmaps     convert: copy the bitmaps that the source stores
  -m, -W        convert: requests in flight (8); write them in any order
  -r            check: what to repair (leaks, all); convert, commit: bytes a second
";

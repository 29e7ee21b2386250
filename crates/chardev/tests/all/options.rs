//! The options of `-chardev` and the one-string forms.

use crate::support::Fixture;
use chardev::{Backend, Legacy, Protocol, SocketAddress, VcSize, parse_legacy, parse_option};

fn socket(text: &str) -> chardev::SocketOptions {
    match parse_option(text).unwrap().backend {
        Backend::Socket(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn old_and_new_spellings_mean_the_same() {
    let new = socket("socket,id=c,path=/a,,b,server=on,wait=off");
    assert_eq!(new, socket("socket,path=/a,,b,server,nowait,id=c"));
    assert_eq!(new.address, SocketAddress::Unix { path: "/a,b".into(), is_abstract: false, tight: true });
    assert!(new.server && !new.wait);
    let Ok(Legacy::New(legacy)) = parse_legacy("c", "unix:/a,,b,server,nowait") else { panic!() };
    assert_eq!(legacy.backend, Backend::Socket(new));
    assert!(socket("socket,id=c,host=h,port=1,server").wait, "servers wait unless told otherwise");
    assert!(socket("socket,id=c,host=h,port=1,nodelay").nodelay && socket("socket,id=c,port=1,nodelay=on").nodelay);
}

#[test]
fn one_string_forms_are_understood() {
    let backend = |text: &str| match parse_legacy("serial0", text).unwrap() {
        Legacy::New(spec) => (spec.backend, spec.common.mux),
        other => panic!("{other:?}"),
    };
    assert_eq!(parse_legacy("x", "none").unwrap(), Legacy::Nothing);
    assert_eq!(parse_legacy("x", "chardev:c0").unwrap(), Legacy::Existing("c0".into()));
    assert_eq!(backend("stdio"), (Backend::Stdio { signal: true }, false));
    assert_eq!(backend("mon:stdio"), (Backend::Stdio { signal: false }, true));
    assert_eq!(backend("null"), (Backend::Null, false));
    assert_eq!(backend("pipe:/p"), (Backend::Pipe { path: "/p".into() }, false));
    let file = Backend::File { path: "/f".into(), input_path: None, append: false };
    assert_eq!(backend("file:/f"), (file, false));
    let (Backend::Socket(tcp), false) = backend("tcp:[::1]:4444,server=on,wait=off") else { panic!() };
    let address = SocketAddress::Inet { host: "::1".into(), port: 4444, to: None, ipv4: None, ipv6: None };
    assert_eq!((tcp.address, tcp.server, tcp.wait), (address, true, false));
    let (Backend::Socket(telnet), false) = backend("telnet::23,server") else { panic!() };
    assert_eq!(telnet.protocol, Protocol::Telnet);
    let (Backend::Socket(web), false) = backend("websocket:127.0.0.1:80,server,nowait") else { panic!() };
    assert_eq!(web.protocol, Protocol::Websocket);
    let (Backend::Udp(udp), false) = backend("udp:h:1@:2") else { panic!() };
    assert_eq!((udp.remote.to_string(), udp.local.unwrap().to_string()), ("tcp:h:1".into(), "tcp::2".into()));
    assert_eq!(backend("msmouse").0, Backend::Msmouse);
    assert_eq!(backend("wctablet").0, Backend::Wctablet);
    let of = |width, height, columns, rows| Backend::Vc(VcSize { width, height, columns, rows });
    assert_eq!(backend("vc").0, of(None, None, None, None));
    assert_eq!(backend("vc:80Cx24C").0, of(None, None, Some(80), Some(24)));
    assert_eq!(backend("vc:800x600").0, of(Some(800), Some(600), None, None));
    for wrong in ["vc:", "vc:80Cx24", "vc:9999Cx1C", "vc:ax1"] {
        assert!(parse_legacy("c", wrong).is_err(), "{wrong}");
    }
    assert_eq!(backend("/dev/ttyS9").0, Backend::Serial { path: "/dev/ttyS9".into() });
    assert_eq!(backend("/dev/parport0").0, Backend::Parallel { path: "/dev/parport0".into() });
}

#[test]
fn errors_name_the_option() {
    for (text, expected) in [
        ("null", "chardev: no id specified"),
        ("backend=null,id=9", "Parameter 'id' expects an identifier"),
        ("id=c", "chardev: \"c\" missing backend"),
        ("nonsense,id=c", "'nonsense' is not a valid char driver name"),
        ("braille,id=c", "chardev: back end 'braille' is not supported"),
        ("vc,id=c,cols=1001", "Parameter 'cols' expects at most 1000"),
        ("udp,id=c", "chardev: udp: remote port not specified"),
        ("mux,id=c", "chardev: mux: no chardev given"),
        ("serial,id=c", "chardev: serial/tty: no device path given"),
        ("null,id=c,foo=1", "Invalid parameter 'foo'"),
        ("socket,id=c", "chardev: socket: no 'path', 'host' or 'fd' given"),
        ("socket,id=c,host=h", "chardev: socket: no port given"),
        ("socket,id=c,path=/a,host=h", "None or one of 'path', 'fd' or 'host' option required."),
        ("socket,id=c,path=/a,server=maybe", "Parameter 'server' expects 'on' or 'off'"),
        ("socket,id=c,path=/a,reconnect=x", "Parameter 'reconnect' expects a number"),
        ("socket,id=c,path=/a,server=on,reconnect=1", "'reconnect' option is incompatible with socket in server"),
        ("socket,id=c,path=/a,wait=on", "'wait' option is incompatible with socket in client connect mode"),
        ("socket,id=c,path=/a,tn3270=on", "chardev: socket: the TN3270 protocol ('tn3270') is not supported"),
        ("socket,id=c,host=h,port=1,websocket=on", "Websocket client is not implemented"),
        ("socket,id=c,path=/a,tls-creds=t", "'tls_creds' option is incompatible with 'unix' address type"),
        ("socket,id=c,host=h,port=1,tls-authz=t", "'tls_authz' option requires 'tls_creds' option"),
        ("socket,id=c,fd=name", "File descriptor named 'name' has not been found"),
        ("file,id=c", "chardev: file: no filename given"),
        ("ringbuf,id=c,size=3", "size of ringbuf chardev must be power of two"),
    ] {
        let error = parse_option(text).map(|spec| format!("{spec:?}")).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    assert_eq!(parse_option("hub,id=c,chardevs.4=a").unwrap_err().to_string(), "Invalid parameter 'chardevs.4'");
    for text in ["braille", "tn3270:h:1"] {
        assert!(parse_legacy("c", text).unwrap_err().to_string().ends_with("is not supported"), "{text}");
    }
    assert_eq!(parse_legacy("c", "bogus").unwrap_err().to_string(), "'bogus' is not a valid char driver");
}

#[test]
fn every_kind_that_is_listed_can_be_made() {
    let fixture = Fixture::new();
    // Who is behind mice and terminals in the program is nobody here.
    fixture.chardevs.set_inner(std::sync::Arc::new(|_, inner| drop(inner)));
    fixture.chardevs.add(&parse_option("null,id=base").unwrap()).unwrap();
    let path = fixture.path("file");
    std::fs::write(&path, b"").unwrap();
    for kind in chardev::backends() {
        let needs = match kind {
            "file" | "pipe" | "serial" => format!("path={path}"),
            "hub" => "chardevs.0=base".to_owned(),
            "mux" => "chardev=base".to_owned(),
            "socket" => format!("path={path}.socket,server=on,wait=off"),
            "udp" => "host=127.0.0.1,port=9".to_owned(),
            _ => String::new(),
        };
        let spec = parse_option(&format!("{kind},id=c,{needs}")).unwrap();
        fixture.chardevs.add(&spec).unwrap_or_else(|error| panic!("{kind}: {error}"));
        fixture.chardevs.remove("c").unwrap();
    }
}

#[test]
fn old_names_of_kinds_are_understood_with_a_warning() {
    let serial = Backend::Serial { path: "/dev/null".into() };
    assert_eq!(parse_option("tty,id=c,path=/dev/null").unwrap().backend, serial);
    let warning = "The alias 'tty' is deprecated, use 'serial' instead";
    assert_eq!(chardev::alias_warning("tty,id=c,path=/dev/null").unwrap(), warning);
    assert_eq!(chardev::alias_warning("id=c,path=/dev/null,backend=tty").unwrap(), warning);
    let warning = "The alias 'parport' is deprecated, use 'parallel' instead";
    assert_eq!(chardev::alias_warning("parport,id=c").unwrap(), warning);
    assert_eq!(chardev::alias_warning("serial,id=tty"), None);
}

#[test]
fn pointers_and_terminals_are_refused_where_there_are_none() {
    let fixture = Fixture::new();
    for kind in ["msmouse", "wctablet", "vc"] {
        let refused = fixture.chardevs.add(&parse_option(&format!("{kind},id=c")).unwrap()).unwrap_err().to_string();
        assert_eq!(refused, format!("'{kind}' is not a valid char driver name"));
    }
}

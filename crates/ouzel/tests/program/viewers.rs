//! Other people's VNC viewers show what `screendump` shows, pixel for pixel, in each encoding that they and the server
//! have. The test plays the guest: it puts pictures into video memory through qtest.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::json;

use crate::display::{Qtest, TEXT};
use crate::support::{Machine, PATIENCE, Session, Setup, python, repository};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// So many rows below the screen come into it at once, when it scrolls.
const SCROLL: u16 = 45;
/// Copies of areas.
const COPY_RECT: i32 = 1;
/// What the server has.
const SERVED: [(i32, &str); 5] = [(0, "raw"), (5, "hextile"), (6, "zlib"), (7, "tight"), (16, "zrle")];
/// What viewers ask for in vain, and get raw pictures instead: RRE, CoRRE, tight with PNG.
const NOT_SERVED: [i32; 3] = [2, 4, -260];
/// How far JPEG of the quality asked for here may be from the picture: the mean over all colours, of 255.
const JPEG_MEAN: f64 = 2.0;
/// The same for a single one, beside a hard edge.
const JPEG_MOST: u8 = 48;
/// JPEG's quality, 0–9.
const JPEG_QUALITY: u8 = 8;

/// A process that shows pictures; its requests are those of `peer_vnc_viewer.py`.
struct Viewer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Viewer {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the viewer starts");
        let (requests, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, requests, answers: BufReader::new(answers) }
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.requests, "{request}").expect("the viewer reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the viewer answers");
        let answer = answer.trim_end().to_owned();
        assert!(!answer.is_empty(), "the viewer ended at `{request}`");
        answer
    }

    /// Opens a connection; whether the viewer knows the encoding.
    fn open(&mut self, encoding: i32, copies: bool, quality: Option<u8>) -> bool {
        let quality = quality.map_or("-".to_owned(), |quality| quality.to_string());
        let answer = self.ask(&format!("open {encoding} {} {quality}", if copies { "yes" } else { "no" }));
        assert!(answer == "ok" || answer == "skip", "encoding {encoding}: {answer}");
        answer == "ok"
    }

    fn shot(&mut self, path: &str) -> Vec<u8> {
        assert_eq!(self.ask(&format!("shot {path}")), "ok");
        fs::read(path).expect("a picture")
    }

    /// The encodings that came, if the viewer tells.
    fn used(&mut self) -> Option<Vec<i32>> {
        let answer = self.ask("used");
        let list = answer.strip_prefix("ok")?;
        Some(list.split_whitespace().map(|number| number.parse().expect("a number")).collect())
    }

    fn close(&mut self) {
        assert_eq!(self.ask("close"), "ok");
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // Its end follows from the end of its input; whoever failed does not wait for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest's screen with something for each way of encoding: areas of one colour, letters of two, icons of a few, and a
/// photograph; and the rows below it.
fn picture() -> Vec<u32> {
    let mut pixels = Vec::new();
    for y in 7..7 + HEIGHT + u32::from(SCROLL) {
        for x in 0..WIDTH {
            let dots = ((x / 2) ^ (y.wrapping_mul(0x9e37_79b1) >> 7)).wrapping_mul(0x85eb_ca6b) >> 28;
            pixels.push(match (x / 160, y / 60 % 2) {
                (0, 0) => 0x20_4060,
                (0, _) => [0xff_ffff, 0x00_0000][usize::from(dots > 11)],
                (1, 0) => [0x80_8000, 0x00_80ff, 0xff_0080, 0x12_3456][(dots % 4) as usize],
                (1, _) => (x * 3 + y) % 100 * 0x01_0203,
                // Soft, as what a camera sees.
                (2, _) => (x * 2 % 256) << 16 | (y * 2 % 256 / 2 + x / 8) << 8 | (255 - x % 160),
                (_, 0) => 0xc0_c0c0 + y % 8,
                _ => (dots * 0x11_1111).wrapping_add(y * 0x01_0000) & 0xff_ffff,
            });
        }
    }
    pixels
}

/// Puts pixels into video memory, one of its windows after the other.
fn show(qtest: &mut Qtest, pixels: &[u32]) {
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    for (bank, piece) in (0..).zip(bytes.chunks(0x1_0000)) {
        qtest.vbe(5, bank);
        qtest.write(0xa_0000, piece);
    }
}

/// The mean and the largest difference of two pictures.
fn difference(one: &[u8], other: &[u8]) -> (f64, u8) {
    assert_eq!(one.len(), other.len(), "the sizes of the pictures");
    let each = one.iter().zip(other).map(|(one, other)| one.abs_diff(*other));
    let (sum, most) = each.fold((0_u64, 0), |(sum, most), by| (sum + u64::from(by), most.max(by)));
    (sum as f64 / one.len() as f64, most)
}

/// A machine that waits for pictures, and how a viewer is told where it is.
struct Stage {
    machine: Machine,
    session: Session,
    qtest: Qtest,
    port: u16,
    websocket: u16,
}

impl Stage {
    fn new(options: &str) -> Self {
        let mut machine = Setup::new()
            .args(["-m", "32", "-vga", "std", "-accel", "qtest", "-qtest", "unix:{dir}qtest,server=on,wait=off"])
            .args(["-qtest-log", "none", "-vnc", &format!("127.0.0.1:0,to=9000,websocket=on,{options}")])
            .start();
        let mut session = machine.connect(0);
        let socket = machine.file("qtest");
        let mut qtest = Qtest(machine.connect_unix(&socket));
        // The screen is on.
        qtest.mode(&TEXT);
        for (index, value) in [(4, 0), (1, WIDTH as u16), (2, HEIGHT as u16), (3, 32), (4, 1)] {
            qtest.vbe(index, value);
        }
        let servers = session.query("query-vnc-servers");
        let list = servers[0]["server"].as_array().expect("listeners").clone();
        let port = |is_websocket: bool| {
            let found = list.iter().find(|one| one["websocket"] == is_websocket).expect("a listener");
            found["service"].as_str().and_then(|text| text.parse().ok()).expect("a port")
        };
        Self { session, qtest, port: port(false), websocket: port(true), machine }
    }

    fn show(&mut self, pixels: &[u32]) {
        // The first row of the screen.
        self.qtest.vbe(9, 0);
        show(&mut self.qtest, pixels);
    }

    fn wanted(&mut self) -> Vec<u8> {
        let path = self.machine.file("wanted.ppm");
        self.session.run("screendump", json!({ "filename": path }));
        let picture = fs::read(path).expect("a picture");
        let colours: HashSet<_> = picture.chunks(3).collect();
        assert!(colours.len() > 1000, "the screen is dark");
        picture
    }

    /// Waits until the viewer shows what is wanted.
    fn comes_to_show(&mut self, viewer: &mut Viewer, what: &str, is_it: &mut dyn FnMut(&[u8]) -> bool) {
        let path = self.machine.file("shown.ppm");
        self.machine.wait_for(what, PATIENCE, |_| is_it(&viewer.shot(&path)).then_some(()));
    }

    fn peer(&self, kind: &str) -> Viewer {
        let mut command = Command::new(python());
        command.arg(repository().join("crates/ouzel/tests/peer_vnc_viewer.py"));
        command.args([kind, &self.port.to_string(), &self.machine.file("")]);
        Viewer::start(command)
    }

    fn novnc(&self) -> Viewer {
        let mut command = Command::new("node");
        command.arg(repository().join("web/tests/viewer.mjs")).arg(self.websocket.to_string());
        Viewer::start(command)
    }
}

/// One connection: a picture, the same moved up, and a change of a few pixels.
fn follows(stage: &mut Stage, viewer: &mut Viewer, (encoding, name): (i32, &str), copies: bool) -> bool {
    let mut pixels = picture();
    stage.show(&pixels);
    if !viewer.open(encoding, copies, None) {
        return false;
    }
    for step in ["whole", "moved", "touched"] {
        match step {
            "moved" => stage.qtest.vbe(9, SCROLL),
            "touched" => {
                for (at, pixel) in (WIDTH as usize * 100 + 90..).zip(0..200_u32) {
                    pixels[at] = pixel * 0x01_0100 + 3;
                }
                show(&mut stage.qtest, &pixels);
            }
            _ => {}
        }
        let wanted = stage.wanted();
        let what = format!("{name}, {step} picture, {}", if copies { "with CopyRect" } else { "without copies" });
        stage.comes_to_show(viewer, &what, &mut |shown| shown == wanted);
    }
    if let Some(used) = viewer.used() {
        let is_served = SERVED.iter().any(|(served, _)| *served == encoding);
        let mut expected = vec![if is_served { encoding } else { 0 }];
        if copies {
            expected.push(COPY_RECT);
            expected.sort_unstable();
        }
        assert_eq!(used, expected, "{name}: the encodings that came");
    }
    viewer.close();
    true
}

/// All encodings of a viewer, those without loss.
fn shows_every_encoding(stage: &mut Stage, viewer: &mut Viewer, who: &str) {
    let others = NOT_SERVED.map(|number| (number, "an encoding that there is not"));
    let mut count = 0;
    for (encoding, name) in SERVED.into_iter().chain(others) {
        for copies in [false, true] {
            if follows(stage, viewer, (encoding, name), copies) {
                println!("{who}, {name}{}: equal", if copies { " with CopyRect" } else { "" });
                count += 1;
            }
        }
    }
    assert!(count >= 4, "{who} knows but {count} ways");
}

/// Tight with JPEG, where details are lost and stay so.
fn shows_photographs(stage: &mut Stage, viewer: &mut Viewer, who: &str) {
    stage.show(&picture());
    let wanted = stage.wanted();
    assert!(viewer.open(7, true, Some(JPEG_QUALITY)), "{who} has tight");
    let mut last = (0.0, 0);
    stage.comes_to_show(viewer, "a photograph", &mut |shown| {
        if shown.len() != wanted.len() {
            return false;
        }
        last = difference(shown, &wanted);
        last.0 <= JPEG_MEAN && last.1 <= JPEG_MOST
    });
    assert!(last.1 > 0, "{who}: nothing was lost, so there was no JPEG");
    println!("{who}, tight with JPEG: differs by {:.2} in the mean, by {} at most", last.0, last.1);
    viewer.close();
}

const LOSSY: &str = "lossy=on,non-adaptive=on";

#[test]
#[ignore = "peer: Debian's package chromium, Node.js, and the packages of web/"]
fn peer_chromium_novnc_shows_the_screen_in_each_encoding() {
    let mut stage = Stage::new("lossy=off");
    let mut viewer = stage.novnc();
    shows_every_encoding(&mut stage, &mut viewer, "noVNC");
    let mut stage = Stage::new(LOSSY);
    let mut viewer = stage.novnc();
    shows_photographs(&mut stage, &mut viewer, "noVNC");
}

#[test]
#[ignore = "peer: vncdotool of the Python environment"]
fn peer_python_vncdotool_shows_the_screen_in_each_encoding() {
    let mut stage = Stage::new("lossy=off");
    let mut viewer = stage.peer("vncdotool");
    shows_every_encoding(&mut stage, &mut viewer, "vncdotool");
}

#[test]
#[ignore = "peer: TigerVNC's viewer, Xvfb and ImageMagick"]
fn peer_tigervnc_shows_the_screen_in_each_encoding() {
    let mut stage = Stage::new("lossy=off");
    let mut viewer = stage.peer("tigervnc");
    shows_every_encoding(&mut stage, &mut viewer, "TigerVNC");
    drop(viewer);
    let mut stage = Stage::new(LOSSY);
    let mut viewer = stage.peer("tigervnc");
    shows_photographs(&mut stage, &mut viewer, "TigerVNC");
}

//! Screens, keyboards and mice (QEMU's `ui.json`).

use crate::{Command, QapiType};

/// How a picture is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum ImageFormat {
    /// Portable pixmap.
    Ppm,
    /// Portable network graphics.
    Png,
}

/// Writes what a screen shows to a file.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "screendump")]
pub struct Screendump {
    /// The file; what it had is lost.
    pub filename: String,
    /// The id or path of the display device; the first screen if absent.
    pub device: Option<String>,
    /// The number of the screen among those of the device; 0 if absent.
    pub head: Option<i64>,
    /// How the picture is stored; `ppm` if absent.
    pub format: Option<ImageFormat>,
}

/// A pointing device.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MouseInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: i64,
    /// Whether it gets the events.
    pub current: bool,
    /// Whether it takes positions, not movements.
    pub absolute: bool,
}

/// Lists the pointing devices.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-mice", returns = Vec<MouseInfo>)]
pub struct QueryMice {}

/// The keys of a keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[qapi(snake)]
pub enum QKeyCode {
    /// No key.
    Unmapped,
    /// The key `shift`.
    Shift,
    /// The key `shift_r`.
    ShiftR,
    /// The key `alt`.
    Alt,
    /// The key `alt_r`.
    AltR,
    /// The key `ctrl`.
    Ctrl,
    /// The key `ctrl_r`.
    CtrlR,
    /// The key `menu`.
    Menu,
    /// The key `esc`.
    Esc,
    /// The key `1`.
    #[qapi(name = "1")]
    Digit1,
    /// The key `2`.
    #[qapi(name = "2")]
    Digit2,
    /// The key `3`.
    #[qapi(name = "3")]
    Digit3,
    /// The key `4`.
    #[qapi(name = "4")]
    Digit4,
    /// The key `5`.
    #[qapi(name = "5")]
    Digit5,
    /// The key `6`.
    #[qapi(name = "6")]
    Digit6,
    /// The key `7`.
    #[qapi(name = "7")]
    Digit7,
    /// The key `8`.
    #[qapi(name = "8")]
    Digit8,
    /// The key `9`.
    #[qapi(name = "9")]
    Digit9,
    /// The key `0`.
    #[qapi(name = "0")]
    Digit0,
    /// The key `minus`.
    Minus,
    /// The key `equal`.
    Equal,
    /// The key `backspace`.
    Backspace,
    /// The key `tab`.
    Tab,
    /// The key `q`.
    Q,
    /// The key `w`.
    W,
    /// The key `e`.
    E,
    /// The key `r`.
    R,
    /// The key `t`.
    T,
    /// The key `y`.
    Y,
    /// The key `u`.
    U,
    /// The key `i`.
    I,
    /// The key `o`.
    O,
    /// The key `p`.
    P,
    /// The key `bracket_left`.
    BracketLeft,
    /// The key `bracket_right`.
    BracketRight,
    /// The key `ret`.
    Ret,
    /// The key `a`.
    A,
    /// The key `s`.
    S,
    /// The key `d`.
    D,
    /// The key `f`.
    F,
    /// The key `g`.
    G,
    /// The key `h`.
    H,
    /// The key `j`.
    J,
    /// The key `k`.
    K,
    /// The key `l`.
    L,
    /// The key `semicolon`.
    Semicolon,
    /// The key `apostrophe`.
    Apostrophe,
    /// The key `grave_accent`.
    GraveAccent,
    /// The key `backslash`.
    Backslash,
    /// The key `z`.
    Z,
    /// The key `x`.
    X,
    /// The key `c`.
    C,
    /// The key `v`.
    V,
    /// The key `b`.
    B,
    /// The key `n`.
    N,
    /// The key `m`.
    M,
    /// The key `comma`.
    Comma,
    /// The key `dot`.
    Dot,
    /// The key `slash`.
    Slash,
    /// The key `asterisk`.
    Asterisk,
    /// The key `spc`.
    Spc,
    /// The key `caps_lock`.
    CapsLock,
    /// The key `f1`.
    #[qapi(name = "f1")]
    F1,
    /// The key `f2`.
    #[qapi(name = "f2")]
    F2,
    /// The key `f3`.
    #[qapi(name = "f3")]
    F3,
    /// The key `f4`.
    #[qapi(name = "f4")]
    F4,
    /// The key `f5`.
    #[qapi(name = "f5")]
    F5,
    /// The key `f6`.
    #[qapi(name = "f6")]
    F6,
    /// The key `f7`.
    #[qapi(name = "f7")]
    F7,
    /// The key `f8`.
    #[qapi(name = "f8")]
    F8,
    /// The key `f9`.
    #[qapi(name = "f9")]
    F9,
    /// The key `f10`.
    #[qapi(name = "f10")]
    F10,
    /// The key `num_lock`.
    NumLock,
    /// The key `scroll_lock`.
    ScrollLock,
    /// The key `kp_divide`.
    KpDivide,
    /// The key `kp_multiply`.
    KpMultiply,
    /// The key `kp_subtract`.
    KpSubtract,
    /// The key `kp_add`.
    KpAdd,
    /// The key `kp_enter`.
    KpEnter,
    /// The key `kp_decimal`.
    KpDecimal,
    /// The key `sysrq`.
    Sysrq,
    /// The key `kp_0`.
    #[qapi(name = "kp_0")]
    Kp0,
    /// The key `kp_1`.
    #[qapi(name = "kp_1")]
    Kp1,
    /// The key `kp_2`.
    #[qapi(name = "kp_2")]
    Kp2,
    /// The key `kp_3`.
    #[qapi(name = "kp_3")]
    Kp3,
    /// The key `kp_4`.
    #[qapi(name = "kp_4")]
    Kp4,
    /// The key `kp_5`.
    #[qapi(name = "kp_5")]
    Kp5,
    /// The key `kp_6`.
    #[qapi(name = "kp_6")]
    Kp6,
    /// The key `kp_7`.
    #[qapi(name = "kp_7")]
    Kp7,
    /// The key `kp_8`.
    #[qapi(name = "kp_8")]
    Kp8,
    /// The key `kp_9`.
    #[qapi(name = "kp_9")]
    Kp9,
    /// The key `less`.
    Less,
    /// The key `f11`.
    #[qapi(name = "f11")]
    F11,
    /// The key `f12`.
    #[qapi(name = "f12")]
    F12,
    /// The key `print`.
    Print,
    /// The key `home`.
    Home,
    /// The key `pgup`.
    Pgup,
    /// The key `pgdn`.
    Pgdn,
    /// The key `end`.
    End,
    /// The key `left`.
    Left,
    /// The key `up`.
    Up,
    /// The key `down`.
    Down,
    /// The key `right`.
    Right,
    /// The key `insert`.
    Insert,
    /// The key `delete`.
    Delete,
    /// The key `stop`.
    Stop,
    /// The key `again`.
    Again,
    /// The key `props`.
    Props,
    /// The key `undo`.
    Undo,
    /// The key `front`.
    Front,
    /// The key `copy`.
    Copy,
    /// The key `open`.
    Open,
    /// The key `paste`.
    Paste,
    /// The key `find`.
    Find,
    /// The key `cut`.
    Cut,
    /// The key `lf`.
    Lf,
    /// The key `help`.
    Help,
    /// The key `meta_l`.
    MetaL,
    /// The key `meta_r`.
    MetaR,
    /// The key `compose`.
    Compose,
    /// The key `pause`.
    Pause,
    /// The key `ro`.
    Ro,
    /// The key `hiragana`.
    Hiragana,
    /// The key `henkan`.
    Henkan,
    /// The key `yen`.
    Yen,
    /// The key `muhenkan`.
    Muhenkan,
    /// The key `katakanahiragana`.
    Katakanahiragana,
    /// The key `kp_comma`.
    KpComma,
    /// The key `kp_equals`.
    KpEquals,
    /// The key `power`.
    Power,
    /// The key `sleep`.
    Sleep,
    /// The key `wake`.
    Wake,
    /// The key `audionext`.
    Audionext,
    /// The key `audioprev`.
    Audioprev,
    /// The key `audiostop`.
    Audiostop,
    /// The key `audioplay`.
    Audioplay,
    /// The key `audiomute`.
    Audiomute,
    /// The key `volumeup`.
    Volumeup,
    /// The key `volumedown`.
    Volumedown,
    /// The key `mediaselect`.
    Mediaselect,
    /// The key `mail`.
    Mail,
    /// The key `calculator`.
    Calculator,
    /// The key `computer`.
    Computer,
    /// The key `ac_home`.
    AcHome,
    /// The key `ac_back`.
    AcBack,
    /// The key `ac_forward`.
    AcForward,
    /// The key `ac_refresh`.
    AcRefresh,
    /// The key `ac_bookmarks`.
    AcBookmarks,
    /// The key `lang1`.
    #[qapi(name = "lang1")]
    Lang1,
    /// The key `lang2`.
    #[qapi(name = "lang2")]
    Lang2,
}

/// A key, by its number or its name.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum KeyValue {
    /// The code in scancode set 1, plus 80H for the prefix E0.
    Number(i64),
    /// The name.
    Qcode(QKeyCode),
}

/// Presses keys together, and releases them.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "send-key")]
pub struct SendKey {
    /// The keys, in the order in which they go down.
    pub keys: Vec<KeyValue>,
    /// How long each is held before the next, in milliseconds of guest time; 100 if absent.
    pub hold_time: Option<i64>,
}

/// A button of a pointing device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum InputButton {
    /// The left button.
    Left,
    /// The middle button.
    Middle,
    /// The right button.
    Right,
    /// The wheel away from the user.
    WheelUp,
    /// The wheel towards the user.
    WheelDown,
    /// The front button at the side.
    Side,
    /// The rear button at the side.
    Extra,
    /// The wheel to the left.
    WheelLeft,
    /// The wheel to the right.
    WheelRight,
}

/// An axis of a pointing device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum InputAxis {
    /// To the right.
    X,
    /// Down.
    Y,
}

/// A key goes down or up.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct InputKeyEvent {
    /// The key.
    pub key: KeyValue,
    /// Whether it goes down.
    pub down: bool,
}

/// A button goes down or up.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct InputBtnEvent {
    /// The button.
    pub button: InputButton,
    /// Whether it goes down.
    pub down: bool,
}

/// A pointer moves.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct InputMoveEvent {
    /// Along which axis.
    pub axis: InputAxis,
    /// How far, or where: from 0 to 32767.
    pub value: i64,
}

/// Something that a person does.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data")]
pub enum InputEvent {
    /// A key.
    Key(InputKeyEvent),
    /// A button.
    Btn(InputBtnEvent),
    /// A movement.
    Rel(InputMoveEvent),
    /// A position.
    Abs(InputMoveEvent),
}

/// Gives events to the guest, as one report.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "input-send-event")]
pub struct InputSendEvent {
    /// The id or path of the display device that they are for.
    pub device: Option<String>,
    /// The number of the screen among those of the device; 0 if absent.
    pub head: Option<i64>,
    /// The events.
    pub events: Vec<InputEvent>,
}

//! A schema for tests.

use qapi::schema::{Declaration, Model};
use qapi::{Any, Command, Null, QapiType};

/// Colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
enum Shade {
    /// Red.
    Red,
    /// Rose.
    Rose,
    /// Blue.
    Blue,
}

/// How to fill.
#[derive(Debug, Clone, PartialEq, QapiType)]
struct Fill {
    /// The colour.
    shade: Shade,
    /// Whether it shines.
    shiny: Option<bool>,
}

/// A text or nothing.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(alternate)]
enum TextOrNull {
    /// A text.
    Text(String),
    /// Nothing.
    Null(Null),
}

/// A fill or the name of one.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(alternate)]
enum FillOrName {
    /// A fill.
    Fill(Fill),
    /// A name.
    Name(String),
}

/// A line.
#[derive(Debug, Clone, PartialEq, QapiType)]
struct Line {
    /// How long.
    length: f64,
}

/// A circle.
#[derive(Debug, Clone, PartialEq, QapiType)]
struct Circle {
    /// How wide.
    radius: i64,
}

/// A shape.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(tag = "type")]
enum Figure {
    /// A line.
    Line(Line),
    /// A circle.
    Circle(Circle),
}

/// Takes scalars.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-try")]
struct Try {
    text: Option<String>,
    number: Option<i64>,
    real: Option<f64>,
    flag: Option<bool>,
    names: Option<Vec<String>>,
    places: Option<Vec<i64>>,
    either: Option<TextOrNull>,
    anything: Option<Any>,
}

/// Takes objects.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-draw", returns = Vec<Fill>)]
struct Draw {
    #[qapi(flatten)]
    figure: Figure,
    fill: Option<Fill>,
    list: Option<Vec<Fill>>,
    shades: Option<Vec<Shade>>,
    by_name: Option<FillOrName>,
}

pub(crate) fn model() -> Model {
    let declarations =
        [Declaration::of::<Try>(), Declaration::of::<Draw>(), Declaration::event::<qapi::events::Stop>()];
    Model::from_declarations(&declarations)
}

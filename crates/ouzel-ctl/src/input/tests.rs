use super::fixture::model;
use super::*;

/// The arguments that a line gives, as JSON, or what is wrong.
fn read(line: &str) -> Result<String, String> {
    match parse_line(line)? {
        Line::Command { name, words } => {
            let arguments = arguments(&model(), &name, &words)?;
            Ok(arguments.map_or("none".to_owned(), |arguments| Value::Object(arguments).to_string()))
        }
        other => panic!("{line}: {other:?}"),
    }
}

fn check(line: &str, expected: &str) {
    let expected = json::parse(expected).unwrap();
    let found = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(json::parse(&found).unwrap(), expected, "{line}");
}

fn check_error(line: &str, expected: &str) {
    assert_eq!(read(line).unwrap_err(), expected, "{line}");
}

#[test]
fn scalars_get_the_types_of_the_schema() {
    assert_eq!(read("x-try").unwrap(), "none");
    check("x-try text=1", r#"{"text": "1"}"#);
    check("x-try text=", r#"{"text": ""}"#);
    check("x-try text=a=b", r#"{"text": "a=b"}"#);
    check("x-try number=-7", r#"{"number": -7}"#);
    check("x-try number=010", r#"{"number": 10}"#);
    check("x-try number=0x10", r#"{"number": 16}"#);
    check("x-try number=64M", r#"{"number": 67108864}"#);
    check("x-try number=18446744073709551615", r#"{"number": 18446744073709551615}"#);
    check("x-try real=1.5", r#"{"real": 1.5}"#);
    check("x-try real=2", r#"{"real": 2}"#);
    check("x-try flag=on", r#"{"flag": true}"#);
    check("x-try flag=false", r#"{"flag": false}"#);
    check("x-draw type=circle radius=3", r#"{"type": "circle", "radius": 3}"#);
}

#[test]
fn values_that_do_not_fit_are_refused_here() {
    check_error("x-try number=many", "number: 'many' is not an integer");
    check_error("x-try number=-0x8000000000000001", "number: '-0x8000000000000001' is not an integer");
    check_error("x-try real=inf", "real: 'inf' is not a number");
    check_error("x-try flag=perhaps", "flag: 'perhaps' is not true or false");
    check_error("x-draw fill.shade=pink", "fill.shade: 'pink' is not one of red, rose, blue");
    check_error("x-draw fill=red", "fill: 'red' is not an object in JSON");
}

#[test]
fn quotes_and_backslashes_keep_words_together() {
    check("x-try text='a b'", r#"{"text": "a b"}"#);
    check(r#"x-try text="a \"b\" \n""#, r#"{"text": "a \"b\" \\n"}"#);
    check(r"x-try text=a\ b\'", r#"{"text": "a b'"}"#);
    check("x-try text=a' 'b", r#"{"text": "a b"}"#);
    check_error("x-try text='a", "a ' is not closed");
    check_error("x-try text=a\\", "a backslash at the end of the line");
}

#[test]
fn values_in_brackets_are_json() {
    check("x-draw fill={'shade': 'red', 'shiny': true}", r#"{"fill": {"shade": "red", "shiny": true}}"#);
    check(r#"x-try names=["a b", "]"] flag=on"#, r#"{"names": ["a b", "]"], "flag": true}"#);
    check("x-try {'text': 'a b'}", r#"{"text": "a b"}"#);
    check("x-try text={1 2}", r#"{"text": "{1 2}"}"#);
    check_error("x-draw fill={'shade'", "JSON that is not closed");
    assert!(read("x-draw fill={nonsense}").unwrap_err().starts_with("fill: JSON parse error"));
}

#[test]
fn keys_with_dots_make_objects_and_arrays() {
    check("x-draw fill.shade=red fill.shiny=off", r#"{"fill": {"shade": "red", "shiny": false}}"#);
    check("x-draw list.1.shade=blue list.0.shade=red", r#"{"list": [{"shade": "red"}, {"shade": "blue"}]}"#);
    check("x-try names.0=1 names.1=b", r#"{"names": ["1", "b"]}"#);
    check("x-try anything.a.0=1 anything.a.1=x", r#"{"anything": {"a": [1, "x"]}}"#);
    check_error("x-draw list.1.shade=red", "list: the element list.0 is missing");
    check_error("x-draw list.a=red", "list: an array's elements are list.0, list.1 and so on");
    check_error("x-try number.a=1", "number: it has no members");
    check_error("x-try text=a text=b", "text: it is given twice");
    check_error("x-draw fill.shade=red fill=red", "fill: it is given twice");
    check_error("x-draw fill=red fill.shade=red", "fill.shade: a value is not an object, too");
    check_error("x-draw fill..a=red", "'fill..a' is no key");
    check_error(&format!("x-try a{}=1", ".a".repeat(70)), &format!("'a{}' is no key", ".a".repeat(70)));
}

#[test]
fn lists_of_scalars_are_written_with_commas() {
    check("x-try names=a,1", r#"{"names": ["a", "1"]}"#);
    check("x-try places=1,2", r#"{"places": [1, 2]}"#);
    check("x-try names=", r#"{"names": []}"#);
    check("x-draw shades=red,blue", r#"{"shades": ["red", "blue"]}"#);
    check_error("x-draw shades=red,pink", "shades: 'pink' is not one of red, rose, blue");
    check_error("x-draw list=red", "list: 'red' is not an element; use JSON in [ ]");
}

#[test]
fn branches_of_a_union_give_the_types_of_their_members() {
    check("x-draw type=line length=2.5", r#"{"type": "line", "length": 2.5}"#);
    check("x-draw radius=2", r#"{"radius": 2}"#);
    check_error("x-draw type=circle radius=wide", "radius: 'wide' is not an integer");
}

#[test]
fn alternates_take_what_fits() {
    check("x-try either=null", r#"{"either": null}"#);
    check("x-try either='null'", r#"{"either": "null"}"#);
    check("x-try either=1", r#"{"either": "1"}"#);
    check("x-draw by-name=red", r#"{"by-name": "red"}"#);
    check("x-draw by-name.shade=red", r#"{"by-name": {"shade": "red"}}"#);
    check("x-draw by-name={'shade':'red'}", r#"{"by-name": {"shade": "red"}}"#);
}

#[test]
fn unknown_arguments_are_guessed() {
    check("x-other a=1 b=true c=x d='1' e=[1] f=01", r#"{"a": 1, "b": true, "c": "x", "d": "1", "e": [1], "f": "01"}"#);
    check("x-try what=1 where.0=a", r#"{"what": 1, "where": ["a"]}"#);
    check("x-try anything=1.5", r#"{"anything": 1.5}"#);
}

#[test]
fn lines_for_the_shell_are_told_apart() {
    assert_eq!(parse_line("  "), Ok(Line::Nothing));
    assert_eq!(parse_line("# stop"), Ok(Line::Nothing));
    assert_eq!(parse_line("exit"), Ok(Line::Exit));
    assert_eq!(parse_line("events"), Ok(Line::Events(None)));
    assert_eq!(parse_line("events off"), Ok(Line::Events(Some(false))));
    assert!(parse_line("events maybe").is_err());
    assert_eq!(parse_line("help stop"), Ok(Line::Help(vec!["stop".to_owned()])));
    assert_eq!(parse_line("a=1"), Err("a line begins with a command, not with 'a='".to_owned()));
    check_error("x-try flag", "'flag' is not of the form KEY=VALUE");
}

#[test]
fn requests_in_json_are_taken_as_they_are() {
    let expected = json::parse(r#"{"exec-oob": "x", "id": 5, "more": 1}"#).unwrap();
    match parse_line("{'exec-oob': 'x', 'id': 5, 'more': 1} ").unwrap() {
        Line::Json(request) => assert_eq!(Value::Object(request), expected),
        other => panic!("{other:?}"),
    }
    assert!(parse_line("{'execute'").is_err());
    assert!(parse_line("{}{}").is_err());
}

#[test]
fn requests_in_json_may_be_open() {
    assert!(is_open("{'execute':\n") && is_open("{'a': [{}]") && is_open("{'a"));
    assert!(!is_open("{}") && !is_open("{]") && !is_open("{'a': *") && !is_open("stop {") && !is_open(""));
}

#[test]
fn words_of_a_command_line_are_not_split_again() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let expected = Word { key: Some("text".to_owned()), text: "a 'b".to_owned(), quoted: false };
    let line = parse_words(words(&["x-try", "text=a 'b"])).unwrap();
    assert_eq!(line, Line::Command { name: "x-try".to_owned(), words: vec![expected] });
    assert!(matches!(parse_words(words(&[" {'execute': 'stop'}"])), Ok(Line::Json(_))));
    let line = parse_words(words(&["x-try", r#"{"text": "a=b"}"#])).unwrap();
    assert!(matches!(line, Line::Command { words, .. } if words[0].key.is_none()));
}

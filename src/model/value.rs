//! One value of a point.

use std::fmt;

/// What a point can hold. A level never appears here: ON and OFF are logical.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// ON or OFF.
    Bool(bool),
    /// A finite number; never NaN or infinite.
    Number(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes as they came, a JPEG say.
    Bytes(Vec<u8>),
}

impl Value {
    /// Reads text as people write values in a frame: a finite decimal number is a number, all else text.
    pub fn parse(text: &str) -> Value {
        match parse_number(text) {
            Some(n) => Value::Number(n),
            None => Value::Text(text.to_owned()),
        }
    }

    /// The number, where the value is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(n) => Some(*n),
            _ => None,
        }
    }
}

/// A finite decimal number: digits, one dot, a sign, an exponent. `nan`, `inf` and hex are not numbers.
pub fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.bytes().next().is_some_and(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.')) {
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    text.parse::<f64>().ok().filter(|n| n.is_finite())
}

/// Rounds off what binary fractions add behind the ninth decimal, so that 20.3 - 0.4 reads 19.9.
pub fn tidy(n: f64) -> f64 {
    if n.abs() < 1e6 { (n * 1e9).round() / 1e9 } else { n }
}

impl fmt::Display for Value {
    /// ON/OFF, the shortest decimal that reads back equal (no exponent), the text; bytes as their count.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(true) => f.write_str("ON"),
            Value::Bool(false) => f.write_str("OFF"),
            // -0 would read as a sign of cold where there is none
            Value::Number(n) if *n == 0.0 => f.write_str("0"),
            Value::Number(n) => write!(f, "{n}"),
            Value::Text(t) => f.write_str(t),
            Value::Bytes(b) => write!(f, "<{} bytes>", b.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_decimals_are_numbers() {
        assert_eq!(parse_number(" -4.50 "), Some(-4.5));
        assert_eq!(parse_number("+.5"), Some(0.5));
        assert_eq!(parse_number("1e3"), Some(1000.0));
        for bad in ["", "nan", "inf", "-inf", "0x10", "1,5", "1e999", "infinity", "--1", "e5", "."] {
            assert_eq!(parse_number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn numbers_print_without_exponent() {
        assert_eq!(Value::Number(1e21).to_string(), "1000000000000000000000");
        assert_eq!(Value::Number(-0.0).to_string(), "0");
        assert_eq!(Value::Number(23.5).to_string(), "23.5");
    }
}

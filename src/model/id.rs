//! Small handles and the rule for names.

/// A point of the running plan; an index into [`crate::model::PointSpec`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointId(pub u32);

/// A device of the running plan; an index into [`crate::model::DeviceSpec`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// Pairs an action given to a device with the outcome that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether `s` may name a gateway, device, point or port: `[a-z0-9_-]+`, at most 64 long.
pub fn is_name(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 64
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_lower_case_words() {
        assert!(is_name("boiler-2_a"));
        for bad in ["", "Door", "a b", "a/b", "ü", "a+", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}

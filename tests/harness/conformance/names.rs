//! What is called differently in each place where cases run.

use std::collections::BTreeMap;

/// Names in angle brackets, and what they are here.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Adds a name.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(format!("<{name}>"), value.to_owned());
    }

    /// Returns a text with everything filled in, or the first name in it that is not known here.
    ///
    /// # Errors
    /// A name, such as `<echo/6>` where nobody has an IPv6 address.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = text.to_owned();
        for (name, value) in &self.0 {
            filled = filled.replace(name.as_str(), value);
        }
        match filled
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'))
        {
            Some((name, _)) => Err(format!("<{name}>")),
            None => Ok(filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_filled_in_or_said() {
        let mut names = Names::default();
        names.set("echo", "10.0.0.1");
        names.set("echo-v1", "10.0.0.2");
        assert_eq!(
            names.fill("http://<echo>/ http://<echo-v1>:80/").unwrap(),
            "http://10.0.0.1/ http://10.0.0.2:80/"
        );
        assert_eq!(names.fill("http://<echo/6>/").unwrap_err(), "<echo/6>");
    }
}

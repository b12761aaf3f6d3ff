//! Text of HTML and SVG, well-formed XML in both. What the program itself writes goes in as it is,
//! and only a `&'static str` can; whatever comes from a scenario, a server or a command line is
//! escaped on its way in. Knows no element by name.

use std::fmt::{self, Display, Write};

/// Markup so far.
#[derive(Debug, Clone, Default)]
pub struct Markup(String);

impl Markup {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The program's own markup.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text of anybody, in an element or in a quoted attribute.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        write!(Escaping(&mut self.0), "{text}").expect("writing to a string does not fail");
        self
    }

    /// A coordinate, to a hundredth of a pixel.
    pub fn at(&mut self, coordinate: f64) -> &mut Self {
        let coordinate = if coordinate.is_finite() { coordinate } else { 0.0 };
        let text = format!("{coordinate:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        self.0.push_str(if text == "-0" { "0" } else { text });
        self
    }

    /// What was marked up elsewhere.
    pub fn append(&mut self, other: &Markup) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Writes text so that it is text: characters that XML gives a meaning as entities, those that it
/// does not allow (XML 1.0 §2.2) and those that would turn the reading direction of what follows
/// as U+FFFD.
struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\t' | '\n' => self.0.push(character),
                '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => self.0.push('\u{fffd}'),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.0.push('\u{fffd}'),
                '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let hostile = "</title><script>alert('x')</script> \"&amp;\u{0}\u{1b}[31m\u{202e}\u{ffff}";
        let mut markup = Markup::new();
        markup.raw("<p title=\"").text(hostile).raw("\">").text(hostile).raw("</p>");
        let text = markup.into_string();
        let page = roxmltree::Document::parse(&text).unwrap();
        let element = page.root_element();
        assert!(!element.children().any(|child| child.is_element()));
        let shown = hostile.replace(['\u{0}', '\u{1b}', '\u{202e}', '\u{ffff}'], "\u{fffd}");
        assert_eq!(element.text(), Some(shown.as_str()));
        assert_eq!(element.attribute("title"), Some(shown.as_str()));
    }

    #[test]
    fn coordinates_are_short_and_always_numbers() {
        let mut markup = Markup::new();
        for coordinate in [1.0, 2.504, -0.001, f64::NAN, f64::INFINITY] {
            markup.at(coordinate).raw(" ");
        }
        assert_eq!(markup.into_string(), "1 2.5 0 0 0 ");
    }
}

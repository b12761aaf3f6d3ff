//! Parts of a page: figures, tables, lists of facts, and the page around them. One file without a
//! request to anywhere, which its own policy forbids. Knows nothing of runs.

use std::fmt::Display;

use super::{
    markup::Markup,
    picture::{Ink, Picture},
};

/// Rows of a table that are shown at once; the rest is behind a line that opens.
const ROWS_OPEN: usize = 24;

/// A picture with what it says in words, and its numbers.
pub struct Figure {
    /// The only one of its name on the page.
    pub id: &'static str,
    /// What is shown.
    pub title: String,
    /// What it says, in a sentence or two.
    pub finding: String,
    /// Colours and their meanings.
    pub legend: Vec<(Ink, String)>,
    /// Whether they are surfaces rather than strokes.
    pub solid: bool,
    /// The picture.
    pub picture: Picture,
    /// Its numbers, for those who do not see it and those who want to know.
    pub tables: Vec<Table>,
}

impl Figure {
    /// `<figure>`.
    pub fn markup(&self) -> Markup {
        let mut figure = Markup::new();
        figure.raw("<figure><figcaption><h3>").text(&self.title).raw("</h3><p>");
        figure.text(&self.finding).raw("</p></figcaption>");
        if !self.legend.is_empty() {
            figure.raw("<ul class=\"legend\">");
            for (ink, meaning) in &self.legend {
                let swatch = swatch(*ink, self.solid);
                figure.raw("<li>").append(&swatch).text(meaning).raw("</li>");
            }
            figure.raw("</ul>");
        }
        figure.append(&self.picture.markup(self.id, &self.title, &self.finding));
        for table in &self.tables {
            figure.append(&table.markup());
        }
        figure.raw("</figure>");
        figure
    }
}

/// A stroke as curves have it, or a piece of a bar.
fn swatch(ink: Ink, solid: bool) -> Markup {
    let mut svg = Markup::new();
    svg.raw(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 24 12\" aria-hidden=\"true\">",
    );
    svg.raw(if solid { "<path class=\"bar " } else { "<path class=\"curve " });
    svg.raw(ink.class());
    svg.raw(if solid { "\" d=\"M4 0H20V12H4Z\"/></svg>" } else { "\" d=\"M1 6H23\"/></svg>" });
    svg
}

/// Numbers in rows; the first column names the row.
pub struct Table {
    /// What it holds.
    pub caption: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
    /// Whether its last column is prose.
    pub ends_in_words: bool,
}

impl Table {
    /// An empty one, its last column numbers.
    pub fn new(caption: &str, head: &[&str]) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { caption: caption.to_owned(), head, rows: Vec::new(), ends_in_words: false }
    }

    /// One more row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// `<table>`, behind a line that opens if it is long.
    pub fn markup(&self) -> Markup {
        let mut table = Markup::new();
        let is_long = self.rows.len() > ROWS_OPEN;
        if is_long {
            table.raw("<details><summary>").text(&self.caption).raw(", ");
            table.text(self.rows.len()).raw(" rows</summary>");
        }
        // What scrolls must be reachable by keyboard.
        table.raw("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"");
        table.text(&self.caption).raw("\"><table><caption>").text(&self.caption);
        table.raw("</caption><thead><tr>");
        for (column, name) in self.head.iter().enumerate() {
            self.open(&mut table, column, true);
            table.text(name).raw("</th>");
        }
        table.raw("</tr></thead><tbody>");
        for row in &self.rows {
            table.raw("<tr>");
            for (column, cell) in row.iter().enumerate() {
                self.open(&mut table, column, false);
                table.text(cell).raw(if column == 0 { "</th>" } else { "</td>" });
            }
            table.raw("</tr>");
        }
        table.raw("</tbody></table></div>");
        if is_long {
            table.raw("</details>");
        }
        table
    }

    fn open(&self, table: &mut Markup, column: usize, is_head: bool) {
        let is_words = self.ends_in_words && column + 1 == self.head.len();
        table.raw(match (is_head, column, is_words) {
            (true, _, true) => "<th scope=\"col\" class=\"words\">",
            (true, ..) => "<th scope=\"col\">",
            (false, 0, _) => "<th scope=\"row\">",
            (false, _, true) => "<td class=\"words\">",
            (false, ..) => "<td>",
        });
    }
}

/// A few numbers that matter most: the number, and what it is.
pub fn numbers(numbers: &[(String, String)]) -> Markup {
    let mut list = Markup::new();
    list.raw("<ul class=\"numbers\">");
    for (number, meaning) in numbers {
        list.raw("<li><b>").text(number).raw("</b> <span>").text(meaning).raw("</span></li>");
    }
    list.raw("</ul>");
    list
}

/// Facts by name.
pub fn facts(facts: &[(&'static str, String)]) -> Markup {
    let mut list = Markup::new();
    list.raw("<dl>");
    for (name, fact) in facts {
        list.raw("<dt>").raw(name).raw("</dt><dd>").text(fact).raw("</dd>");
    }
    list.raw("</dl>");
    list
}

/// A judgement with its reasons.
pub fn judgement(is_good: bool, word: &str, sentence: &str, reasons: &[String]) -> Markup {
    let mut block = Markup::new();
    block.raw(if is_good { "<div class=\"verdict\">" } else { "<div class=\"verdict bad\">" });
    block.raw("<p><strong>").text(word).raw("</strong> ").text(sentence).raw("</p>");
    if !reasons.is_empty() {
        block.raw("<ul>");
        for reason in reasons {
            block.raw("<li>").text(reason).raw("</li>");
        }
        block.raw("</ul>");
    }
    block.raw("</div>");
    block
}

/// A chapter of figures side by side.
pub fn chapter(title: &'static str, figures: &[Figure]) -> Markup {
    let mut chapter = Markup::new();
    if figures.is_empty() {
        return chapter;
    }
    chapter.raw("<section><h2>").raw(title).raw("</h2><div class=\"figures\">");
    for figure in figures {
        chapter.append(&figure.markup());
    }
    chapter.raw("</div></section>");
    chapter
}

/// The whole page: HTML that is XML as well.
pub fn page(title: impl Display, body: &Markup) -> String {
    let mut page = Markup::new();
    page.raw("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head>");
    page.raw("<meta charset=\"utf-8\"/>");
    // Nothing is fetched and no script runs, whatever the names in a scenario are.
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ");
    page.raw("style-src 'unsafe-inline'\"/>");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>");
    page.text(title).raw("</title><style>\n").raw(include_str!("page.css")).raw("</style></head>");
    page.raw("<body>").append(body).raw("</body></html>\n");
    page.into_string()
}

//! Pictures as SVG: a plane with two scales for curves, and rows for what is compared side by side.
//! Colours are the page's (`page.css`), so that a picture follows it into the dark; every picture
//! has a title and a description for those who do not see it. Knows nothing of runs.

use std::fmt::Display;

use super::{axis::Axis, markup::Markup};

/// Size of a plane, in the units of its view box; about pixels on a small screen.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 290.0;

/// Room around the drawing for scales and their names.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 48.0;

/// Height of the strip below a plane, and its distance from it.
const LANE: f64 = 26.0;
const LANE_GAP: f64 = 18.0;

/// Height of a row, and how far below its top the bar lies.
const ROW: f64 = 48.0;
const ROW_BAR: f64 = 20.0;
const BAR: f64 = 16.0;

/// Points nearer to each other than this are one on paper.
const APART: f64 = 0.4;

/// Longest name of a row, characters; the whole of it is in a table beside the picture.
const NAME_CHARACTERS_MAX: usize = 34;

/// What is drawn, hence in which colour and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// The server.
    Server,
    /// The same, of lesser weight.
    ServerFaint,
    /// The bare loop.
    Bound,
    /// The same, of lesser weight.
    BoundFaint,
    /// Loss.
    Loss,
    /// A limit that was agreed on.
    Limit,
}

impl Ink {
    /// Its classes in `page.css`.
    pub fn class(self) -> &'static str {
        match self {
            Ink::Server => "server",
            Ink::ServerFaint => "server faint",
            Ink::Bound => "bound",
            Ink::BoundFaint => "bound faint",
            Ink::Loss => "loss",
            Ink::Limit => "limit",
        }
    }
}

/// A finished picture: `<svg>` and how it is to be read.
#[derive(Debug, Clone)]
pub struct Picture {
    width: f64,
    height: f64,
    body: Markup,
}

impl Picture {
    /// The element. `id` must be the only one of its kind on the page.
    pub fn markup(&self, id: &'static str, title: &str, description: &str) -> Markup {
        let mut svg = Markup::new();
        svg.raw("<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 ");
        svg.at(self.width).raw(" ").at(self.height).raw("\" aria-labelledby=\"").raw(id);
        svg.raw("-title ").raw(id).raw("-text\"><title id=\"").raw(id).raw("-title\">");
        svg.text(title).raw("</title><desc id=\"").raw(id).raw("-text\">").text(description);
        svg.raw("</desc>").append(&self.body).raw("</svg>");
        svg
    }
}

/// A plane: x to the right, y upward.
#[derive(Debug, Clone)]
pub struct Plane {
    x: Axis,
    y: Axis,
    behind: Markup,
    marks: Markup,
    lane: Option<Markup>,
}

impl Plane {
    /// An empty one.
    pub fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, behind: Markup::new(), marks: Markup::new(), lane: None }
    }

    /// A curve through points of rising x; `None` interrupts it. A point alone is a dot.
    pub fn curve(&mut self, ink: Ink, points: impl IntoIterator<Item = Option<(f64, f64)>>) {
        let mut piece: Vec<(f64, f64)> = Vec::new();
        for point in points {
            match point {
                Some((x, y)) => piece.push((self.x_at(x), self.y_at(y))),
                None => self.draw(ink, &std::mem::take(&mut piece)),
            }
        }
        self.draw(ink, &piece);
    }

    fn draw(&mut self, ink: Ink, points: &[(f64, f64)]) {
        let marks = &mut self.marks;
        match points {
            [] => {}
            [(x, y)] => {
                marks.raw("<circle r=\"2.2\" class=\"dot ").raw(ink.class());
                marks.raw("\" cx=\"").at(*x).raw("\" cy=\"").at(*y).raw("\"/>");
            }
            [first, rest @ ..] => {
                marks.raw("<path class=\"curve ").raw(ink.class()).raw("\" d=\"M");
                marks.at(first.0).raw(" ").at(first.1);
                let mut last = *first;
                for (index, point) in rest.iter().enumerate() {
                    let moved = (point.0 - last.0).hypot(point.1 - last.1);
                    if moved >= APART || index + 1 == rest.len() {
                        marks.raw("L").at(point.0).raw(" ").at(point.1);
                        last = *point;
                    }
                }
                marks.raw("\"/>");
            }
        }
    }

    /// The surface below a curve.
    pub fn area(&mut self, ink: Ink, points: &[(f64, f64)]) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let (foot, from, to) = (HEIGHT - BOTTOM, self.x_at(first.0), self.x_at(last.0));
        self.marks.raw("<path class=\"area ").raw(ink.class()).raw("\" d=\"M");
        self.marks.at(from).raw(" ").at(foot);
        for (x, y) in points {
            let (x, y) = (self.x_at(*x), self.y_at(*y));
            self.marks.raw("L").at(x).raw(" ").at(y);
        }
        self.marks.raw("L").at(to).raw(" ").at(foot).raw("Z\"/>");
    }

    /// A bar from the foot up, between two values of x. `title` is shown when it is pointed at.
    pub fn column(&mut self, ink: Ink, from: f64, to: f64, y: f64, title: impl Display) {
        let (from, to) = (self.x_at(from), self.x_at(to));
        let (foot, top) = (HEIGHT - BOTTOM, self.y_at(y));
        self.marks.raw("<rect class=\"bar ").raw(ink.class()).raw("\" x=\"").at(from + 0.5);
        self.marks.raw("\" width=\"").at((to - from - 1.0).max(1.0)).raw("\" y=\"").at(top);
        self.marks.raw("\" height=\"").at(foot - top).raw("\"><title>").text(title);
        self.marks.raw("</title></rect>");
    }

    /// A level with its name.
    pub fn level(&mut self, ink: Ink, y: f64, name: impl Display) {
        let y = self.y_at(y);
        self.marks.raw("<path class=\"curve ").raw(ink.class()).raw("\" d=\"M").at(LEFT);
        self.marks.raw(" ").at(y).raw("H").at(WIDTH - RIGHT).raw("\"/>");
        // Above the line, unless that would leave the drawing.
        let y = if y < TOP + 16.0 { y + 14.0 } else { y - 5.0 };
        self.marks.raw("<text text-anchor=\"end\" x=\"").at(WIDTH - RIGHT - 2.0).raw("\" y=\"");
        self.marks.at(y).raw("\">").text(name).raw("</text>");
    }

    /// Shades the whole height between two values of x.
    pub fn shade(&mut self, from: f64, to: f64) {
        let (from, to) = (self.x_at(from), self.x_at(to));
        self.behind.raw("<rect class=\"shade\" y=\"").at(TOP).raw("\" height=\"");
        self.behind.at(HEIGHT - BOTTOM - TOP).raw("\" x=\"").at(from).raw("\" width=\"");
        self.behind.at((to - from).max(0.0)).raw("\"/>");
    }

    /// A strip below the plane over the same x: bars (from, to, height of 0 to 1, title), and what
    /// they show.
    pub fn lane(
        &mut self,
        ink: Ink,
        name: impl Display,
        bars: impl IntoIterator<Item = (f64, f64, f64, String)>,
    ) {
        let foot = HEIGHT - BOTTOM + LANE_GAP + LANE;
        let mut lane = Markup::new();
        lane.raw("<path class=\"scale\" d=\"M").at(LEFT).raw(" ").at(foot).raw("H");
        lane.at(WIDTH - RIGHT).raw("\"/><text x=\"").at(LEFT).raw("\" y=\"");
        lane.at(foot - LANE - 3.0).raw("\">").text(name).raw("</text>");
        for (from, to, height, title) in bars {
            let (from, to) = (self.x_at(from), self.x_at(to));
            // However little it is, it is seen.
            let height = (LANE * height.clamp(0.0, 1.0)).max(2.0);
            lane.raw("<rect class=\"bar ").raw(ink.class()).raw("\" x=\"").at(from);
            lane.raw("\" width=\"").at((to - from).max(1.0)).raw("\" y=\"").at(foot - height);
            lane.raw("\" height=\"").at(height).raw("\"><title>").text(title);
            lane.raw("</title></rect>");
        }
        self.lane = Some(lane);
    }

    /// The picture.
    pub fn finish(self) -> Picture {
        let below = if self.lane.is_some() { LANE + LANE_GAP } else { 0.0 };
        let (foot, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut body = self.behind;
        body.raw("<text x=\"4\" y=\"14\">").text(&self.y.label).raw("</text>");
        for (position, text) in &self.y.ticks {
            let y = foot - position * (foot - TOP);
            body.raw("<path class=\"grid\" d=\"M").at(LEFT).raw(" ").at(y).raw("H").at(right);
            body.raw("\"/><text class=\"tick\" text-anchor=\"end\" x=\"").at(LEFT - 6.0);
            body.raw("\" y=\"").at(y + 4.0).raw("\">").text(text).raw("</text>");
        }
        x_scale(&mut body, &self.x, (LEFT, right), (TOP, foot), foot + below);
        body.raw("<path class=\"scale\" d=\"M").at(LEFT).raw(" ").at(foot).raw("H").at(right);
        body.raw("\"/>").append(&self.marks);
        if let Some(lane) = &self.lane {
            body.append(lane);
        }
        Picture { width: WIDTH, height: HEIGHT + below, body }
    }

    fn x_at(&self, x: f64) -> f64 {
        LEFT + self.x.position(x) * (WIDTH - RIGHT - LEFT)
    }

    fn y_at(&self, y: f64) -> f64 {
        let foot = HEIGHT - BOTTOM;
        foot - self.y.position(y) * (foot - TOP)
    }
}

/// Rows over one horizontal scale, one for each thing compared.
#[derive(Debug, Clone)]
pub struct Rows {
    axis: Axis,
    rows: Vec<Markup>,
}

/// A part of a row's bar.
pub struct Part {
    /// Its colour.
    pub ink: Ink,
    /// Where it ends on the scale; it begins where the one before ended, or at the foot.
    pub to: f64,
    /// What is shown when it is pointed at.
    pub title: String,
}

impl Rows {
    /// None yet.
    pub fn new(axis: Axis) -> Self {
        Self { axis, rows: Vec::new() }
    }

    /// A bar of parts, with its name and its value in words.
    pub fn bar(&mut self, name: &str, value: &str, parts: &[Part]) {
        let mut row = self.heading(name, value);
        let mut from = Self::left();
        for part in parts {
            let to = self.at(part.to);
            row.raw("<rect class=\"bar ").raw(part.ink.class()).raw("\" x=\"").at(from);
            row.raw("\" width=\"").at((to - from).max(0.5)).raw("\" y=\"").at(ROW_BAR);
            row.raw("\" height=\"").at(BAR).raw("\"><title>").text(&part.title);
            row.raw("</title></rect>");
            from = from.max(to);
        }
        self.rows.push(row);
    }

    /// A line from the first to the last of rising values, with a mark at each: hollow, filled,
    /// and from the third on a stroke. Each has its title.
    pub fn range(&mut self, ink: Ink, name: &str, value: &str, marks: &[(f64, String)]) {
        let mut row = self.heading(name, value);
        let y = ROW_BAR + BAR / 2.0;
        if let (Some(first), Some(last)) = (marks.first(), marks.last()) {
            row.raw("<path class=\"curve ").raw(ink.class()).raw("\" d=\"M");
            row.at(self.at(first.0)).raw(" ").at(y).raw("H").at(self.at(last.0)).raw("\"/>");
        }
        for (place, (value, title)) in marks.iter().enumerate() {
            let x = self.at(*value);
            match place {
                0 => row.raw("<circle r=\"4.5\" class=\"hollow "),
                1 => row.raw("<circle r=\"5\" class=\"dot "),
                _ => row.raw("<path class=\"curve "),
            };
            row.raw(ink.class());
            if place < 2 {
                row.raw("\" cx=\"").at(x).raw("\" cy=\"").at(y).raw("\"><title>");
                row.text(title).raw("</title></circle>");
            } else {
                row.raw("\" d=\"M").at(x).raw(" ").at(y - 6.0).raw("V").at(y + 6.0);
                row.raw("\"><title>").text(title).raw("</title></path>");
            }
        }
        self.rows.push(row);
    }

    /// The picture.
    pub fn finish(self) -> Picture {
        let foot = 6.0 + ROW * self.rows.len() as f64;
        let mut body = Markup::new();
        x_scale(&mut body, &self.axis, (Self::left(), WIDTH - RIGHT), (6.0, foot), foot);
        body.raw("<path class=\"scale\" d=\"M").at(Self::left()).raw(" ").at(foot).raw("H");
        body.at(WIDTH - RIGHT).raw("\"/>");
        for (place, row) in self.rows.iter().enumerate() {
            body.raw("<g transform=\"translate(0 ").at(4.0 + ROW * place as f64).raw(")\">");
            body.append(row).raw("</g>");
        }
        Picture { width: WIDTH, height: foot + BOTTOM, body }
    }

    fn heading(&self, name: &str, value: &str) -> Markup {
        let mut row = Markup::new();
        row.raw("<text class=\"name\" x=\"").at(Self::left()).raw("\" y=\"14\">");
        row.text(shortened(name)).raw("</text><text text-anchor=\"end\" x=\"");
        row.at(WIDTH - RIGHT).raw("\" y=\"14\">").text(value).raw("</text>");
        row
    }

    /// Names stand above their rows, hence the scale has nearly the whole width.
    fn left() -> f64 {
        RIGHT
    }

    fn at(&self, value: f64) -> f64 {
        Self::left() + self.axis.position(value) * (WIDTH - RIGHT - Self::left())
    }
}

/// Lines upward from each tick, their texts below `low`, and the scale's name below those.
fn x_scale(body: &mut Markup, axis: &Axis, x: (f64, f64), y: (f64, f64), low: f64) {
    for (position, text) in &axis.ticks {
        let at = x.0 + position * (x.1 - x.0);
        body.raw("<path class=\"grid\" d=\"M").at(at).raw(" ").at(y.0).raw("V").at(y.1);
        body.raw("\"/><text class=\"tick\" x=\"").at(at).raw("\" y=\"").at(low + 17.0);
        body.raw("\" text-anchor=\"");
        // The outermost must not leave the picture.
        let anchor = match at {
            at if at > x.1 - 8.0 => "end",
            at if at < 24.0 => "start",
            _ => "middle",
        };
        body.raw(anchor).raw("\">").text(text).raw("</text>");
    }
    body.raw("<text text-anchor=\"middle\" x=\"").at((x.0 + x.1) / 2.0).raw("\" y=\"");
    body.at(low + 38.0).raw("\">").text(&axis.label).raw("</text>");
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARACTERS_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARACTERS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::unit;

    fn plane() -> Plane {
        Plane::new(Axis::span("s", 0.0, 10.0, unit::number), Axis::linear("y", 100.0, unit::number))
    }

    fn parse(picture: &Picture) -> String {
        let text = picture.markup("id", "a <title>", "a & b").into_string();
        let page = roxmltree::Document::parse(&text).expect("well-formed");
        let title = page.descendants().find(|node| node.attribute("id") == Some("id-title"));
        assert_eq!(title.unwrap().text(), Some("a <title>"));
        text
    }

    #[test]
    fn a_curve_lies_where_its_scales_say() {
        let mut plane = plane();
        plane.curve(Ink::Server, [Some((0.0, 0.0)), Some((5.0, 50.0)), Some((10.0, 100.0))]);
        let text = parse(&plane.finish());
        assert!(text.contains("d=\"M66 242L265 136L464 30\""), "{text}");
    }

    #[test]
    fn a_gap_is_a_gap_and_a_point_alone_is_seen() {
        let mut plane = plane();
        let points = [Some((0.0, 1.0)), Some((1.0, 1.0)), None, Some((4.0, 1.0)), None];
        plane.curve(Ink::Bound, points);
        let text = parse(&plane.finish());
        assert_eq!(text.matches("class=\"curve bound\"").count(), 1);
        assert_eq!(text.matches("class=\"dot bound\"").count(), 1);
    }

    #[test]
    fn a_million_points_make_a_short_curve() {
        let mut plane = plane();
        plane.curve(Ink::Server, (0..1_000_000).map(|i| Some((f64::from(i) / 1e5, 3.0))));
        let text = parse(&plane.finish());
        assert!(text.len() < 40_000, "{}", text.len());
        assert!(text.contains("L464 "), "and it goes on to its end");
    }

    #[test]
    fn rows_shorten_names_and_escape_them() {
        let mut rows = Rows::new(Axis::linear("ns", 10.0, unit::number));
        let name = "<b>".repeat(40);
        rows.bar(&name, "10 ns", &[Part { ink: Ink::Server, to: 10.0, title: "all".into() }]);
        rows.range(Ink::Bound, "r", "1 to 2", &[(1.0, "p50".into()), (2.0, "p99".into())]);
        let text = parse(&rows.finish());
        assert!(text.contains("&lt;b&gt;") && text.contains('…') && !text.contains("<b>"));
    }
}

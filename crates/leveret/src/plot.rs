//! Plots as SVG, by hand: enough for figures that everybody can open.
//!
//! Ink, paper and grid carry classes, so that a page can give them the colours of its theme; alone
//! a plot is black on white.

use std::fmt::Write;

/// A labelled line.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) label: String,
    /// Ascending in x; neither coordinate negative.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A row of horizontal bars, one for each series.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) label: String,
    /// Value and the interval that it lies in; `None` leaves the place empty.
    pub(crate) values: Vec<Option<(f64, [f64; 2])>>,
}

/// A bar whose parts add up to 1.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) label: String,
    pub(crate) parts: Vec<f64>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;
/// Height of a bar and of the gap between groups of bars.
const BAR: f64 = 14.0;
const GAP: f64 = 10.0;
/// Colours that stay apart for all kinds of sight (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];

/// The colour of a series.
pub(crate) fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// A plot of `curves` from the origin.
pub(crate) fn lines(title: &str, x_label: &str, y_label: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let x_step = step(all().map(|p| p.0).fold(0.0, f64::max));
    let y_step = step(all().map(|p| p.1).fold(0.0, f64::max));
    let x_max = (all().map(|p| p.0).fold(0.0, f64::max) / x_step).ceil().max(1.0) * x_step;
    let y_max = (all().map(|p| p.1).fold(0.0, f64::max) / y_step).ceil().max(1.0) * y_step;
    // The legend stands above the plot, out of the way of any line.
    let top = TOP + 20.0 * curves.len() as f64;
    let height = HEIGHT + 20.0 * curves.len() as f64;
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| height - BOTTOM - value / y_max * (height - top - BOTTOM);

    let mut parts = Vec::new();
    for value in ticks(x_step, x_max) {
        parts.push(rule(x(value), top, x(value), y(0.0)));
        parts.push(text(x(value), y(0.0) + 18.0, "middle", &value.to_string()));
    }
    for value in ticks(y_step, y_max) {
        parts.push(rule(LEFT, y(value), WIDTH - RIGHT, y(value)));
        parts.push(text(LEFT - 8.0, y(value) + 4.0, "end", &value.to_string()));
    }
    for (i, curve) in curves.iter().enumerate() {
        let colour = colour(i);
        let mut path = String::new();
        for (k, &(px, py)) in curve.points.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = write!(path, "{}{:.1} {:.1}", if k == 0 { "M" } else { " L" }, x(px), y(py));
            parts.push(format!(r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x(px), y(py)));
        }
        parts.push(format!(r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#));
    }
    parts.push(legend(curves.iter().map(|curve| curve.label.as_str())));
    parts.push(text((LEFT + WIDTH - RIGHT) / 2.0, height - 14.0, "middle", x_label));
    parts.push(format!(
        r#"<g transform="translate(16 {}) rotate(-90)">{}</g>"#,
        (top + height - BOTTOM) / 2.0,
        text(0.0, 0.0, "middle", y_label)
    ));
    frame(title, height, &parts)
}

/// Horizontal bars from 0 with their intervals, and a line at `mark`, where nothing is gained.
pub(crate) fn bars(title: &str, x_label: &str, series: &[String], rows: &[Bars], mark: f64) -> String {
    let left = label_width(rows.iter().map(|row| row.label.as_str()));
    let ends = rows.iter().flat_map(|row| &row.values).flatten().map(|(value, [_, high])| value.max(*high));
    let most = ends.fold(mark, f64::max);
    let step = step(most);
    let max = (most / step).ceil().max(1.0) * step;
    let x = |value: f64| left + value / max * (WIDTH - left - RIGHT - 40.0);
    let top = TOP + 20.0 * series.len() as f64;
    let group = BAR * series.len() as f64 + GAP;
    let bottom = top + group * rows.len() as f64;

    let mut parts = Vec::new();
    for value in ticks(step, max) {
        parts.push(rule(x(value), top, x(value), bottom));
        parts.push(text(x(value), bottom + 18.0, "middle", &value.to_string()));
    }
    for (i, row) in rows.iter().enumerate() {
        let y0 = top + GAP / 2.0 + group * i as f64;
        parts.push(text(left - 8.0, y0 + BAR * series.len() as f64 / 2.0 + 4.0, "end", &row.label));
        for (k, value) in row.values.iter().enumerate() {
            let Some((value, [low, high])) = *value else { continue };
            let (y, middle) = (y0 + BAR * k as f64, y0 + BAR * (k as f64 + 0.5));
            parts.push(block(x(0.0), y + 1.0, x(value) - x(0.0), BAR - 2.0, colour(k), &row.label));
            parts.push(format!(
                r##"<path class="stroke" d="M{0:.1} {2:.1}H{1:.1}M{0:.1} {3:.1}v6M{1:.1} {3:.1}v6" fill="none" stroke="#222"/>"##,
                x(low), x(high), middle, middle - 3.0
            ));
            parts.push(text(x(high.max(value)) + 6.0, middle + 4.0, "start", &format!("{value:.2}")));
        }
    }
    let x1 = x(mark);
    parts.push(format!(
        r##"<line class="stroke" x1="{x1:.1}" y1="{top}" x2="{x1:.1}" y2="{bottom}" stroke="#222" stroke-dasharray="4 3"/>"##
    ));
    parts.push(legend(series.iter().map(String::as_str)));
    parts.push(text((left + WIDTH - RIGHT) / 2.0, bottom + 40.0, "middle", x_label));
    frame(title, bottom + BOTTOM, &parts)
}

/// Bars of equal length, each divided into the shares of `series`.
pub(crate) fn stacks(title: &str, series: &[&str], rows: &[Stack]) -> String {
    let left = label_width(rows.iter().map(|row| row.label.as_str()));
    let full = WIDTH - left - RIGHT;
    let top = TOP + 20.0 * series.len() as f64;
    let group = 1.6 * BAR + GAP;
    let bottom = top + group * rows.len() as f64;
    let mut parts = Vec::new();
    for tick in 0..=5 {
        let x = left + full * f64::from(tick) / 5.0;
        parts.push(rule(x, top, x, bottom));
        parts.push(text(x, bottom + 18.0, "middle", &format!("{}%", tick * 20)));
    }
    for (i, row) in rows.iter().enumerate() {
        let y = top + GAP / 2.0 + group * i as f64;
        parts.push(text(left - 8.0, y + 0.8 * BAR + 4.0, "end", &row.label));
        let mut x = left;
        for (k, &share) in row.parts.iter().enumerate() {
            let title = format!("{} {:.2}%", series.get(k).unwrap_or(&""), share * 100.0);
            parts.push(block(x, y, full * share, 1.6 * BAR, colour(k), &title));
            x += full * share;
        }
    }
    parts.push(legend(series.iter().copied()));
    frame(title, bottom + 32.0, &parts)
}

/// The same plot as a file of its own.
pub(crate) fn standalone(svg: &str) -> String {
    svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1)
}

fn frame(title: &str, height: f64, parts: &[String]) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}\n{}\n</svg>\n",
        text(WIDTH / 2.0, 26.0, "middle", title),
        parts.join("\n")
    )
}

/// A line for each series, from the top.
fn legend<'a>(labels: impl Iterator<Item = &'a str>) -> String {
    let mut parts = String::new();
    for (i, label) in labels.enumerate() {
        let line = TOP + 8.0 + 20.0 * i as f64;
        parts += &block(LEFT, line - 10.0, 14.0, 10.0, colour(i), "");
        parts += &text(LEFT + 22.0, line, "start", label);
    }
    parts
}

/// Room for labels at the left.
fn label_width<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let longest = labels.map(|label| label.chars().count()).max().unwrap_or(0);
    (longest as f64 * 7.2 + 20.0).clamp(LEFT, WIDTH / 2.0)
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!(r##"<line class="grid" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#ddd"/>"##)
}

fn block(x: f64, y: f64, width: f64, height: f64, colour: &str, title: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
    format!(
        r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.2}" height="{height:.1}" fill="{colour}">{title}</rect>"#
    )
}

/// A round distance between ticks that gives 4 to 10 of them.
fn step(max: f64) -> f64 {
    if !(max.is_finite() && max > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf((max / 10.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|step| max / step <= 10.0).unwrap_or(max)
}

fn ticks(step: f64, max: f64) -> impl Iterator<Item = f64> {
    let count = (max / step).round() as usize;
    // Rounded to what a reader would write: no 0.30000000000000004.
    (0..=count).map(move |i| (i as f64 * step * 1e6).round() / 1e6)
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = escape(text);
    format!(r##"<text class="ink" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#222">{text}</text>"##)
}

/// Text that can stand in markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (max, expected) in [(32.0, 5.0), (0.7, 0.1), (1.0, 0.1), (950.0, 100.0)] {
            assert!((step(max) - expected).abs() < 1e-9, "{max}: {}", step(max));
        }
        assert_eq!(ticks(0.1, 0.3).collect::<Vec<_>>(), [0.0, 0.1, 0.2, 0.3]);
    }

    #[test]
    fn labels_are_escaped_and_points_lie_inside() {
        let curve = Curve { label: "a<b".into(), points: vec![(1.0, 2.0), (32.0, 70.0)] };
        let svg = standalone(&lines("t & u", "x", "y", &[curve]));
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u"));
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
        assert!(!lines("none", "x", "y", &[]).contains("NaN"));
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let value = |v: f64| Some((v, [v, v]));
        let row = Bars { label: "r".into(), values: vec![value(1.0), None, value(2.0)] };
        let svg = bars("t", "x", &["a".into(), "b".into(), "c".into()], &[row], 1.0);
        let widths: Vec<f64> = svg
            .split("<rect x=")
            .filter(|part| part.contains("<title>r<"))
            .map(|part| part.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2, "an empty place has no bar");
        assert!((widths[1] / widths[0] - 2.0).abs() < 1e-3, "{widths:?}");
        assert!(!bars("t", "x", &[], &[], 1.0).contains("NaN"));
        assert!(stacks("t", &["a"], &[Stack { label: "s".into(), parts: vec![0.5] }]).contains("50.00%"));
    }
}

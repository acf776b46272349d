//! Line plots as SVG, by hand: enough for a curve that everybody can open.

use std::fmt::Write;

/// A labelled line.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) label: String,
    /// Ascending in x; neither coordinate negative.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;
/// Colours that stay apart for all kinds of sight (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A plot of `curves` from the origin.
pub(crate) fn lines(title: &str, x_label: &str, y_label: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let x_step = step(all().map(|p| p.0).fold(0.0, f64::max));
    let y_step = step(all().map(|p| p.1).fold(0.0, f64::max));
    let x_max = (all().map(|p| p.0).fold(0.0, f64::max) / x_step).ceil().max(1.0) * x_step;
    let y_max = (all().map(|p| p.1).fold(0.0, f64::max) / y_step).ceil().max(1.0) * y_step;
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / y_max * (HEIGHT - TOP - BOTTOM);

    let mut parts = Vec::new();
    for value in ticks(x_step, x_max) {
        let (x, y0) = (x(value), y(0.0));
        parts.push(format!(r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{y0:.1}" stroke="#ddd"/>"##));
        parts.push(text(x, y0 + 18.0, "middle", &value.to_string()));
    }
    for value in ticks(y_step, y_max) {
        let (y, right) = (y(value), WIDTH - RIGHT);
        parts.push(format!(r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#ddd"/>"##));
        parts.push(text(LEFT - 8.0, y + 4.0, "end", &value.to_string()));
    }
    for (i, curve) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut path = String::new();
        for (k, &(px, py)) in curve.points.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = write!(path, "{}{:.1} {:.1}", if k == 0 { "M" } else { " L" }, x(px), y(py));
            parts.push(format!(r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x(px), y(py)));
        }
        parts.push(format!(r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#));
        let line = TOP + 18.0 + 20.0 * i as f64;
        parts.push(format!(
            r#"<rect x="{}" y="{}" width="14" height="4" fill="{colour}"/>"#,
            LEFT + 14.0,
            line - 6.0
        ));
        parts.push(text(LEFT + 34.0, line, "start", &curve.label));
    }
    parts.push(text(WIDTH / 2.0, 26.0, "middle", title));
    parts.push(text((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0, "middle", x_label));
    parts.push(format!(
        r#"<g transform="translate(16 {}) rotate(-90)">{}</g>"#,
        (TOP + HEIGHT - BOTTOM) / 2.0,
        text(0.0, 0.0, "middle", y_label)
    ));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}\n</svg>\n",
        parts.join("\n")
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
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#222">{text}</text>"##)
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
        let svg = lines("t & u", "x", "y", &[curve]);
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!lines("none", "x", "y", &[]).contains("NaN"));
    }
}

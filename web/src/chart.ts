// A small live chart on a canvas: two series over the last minutes.

import { bytes } from "./dom";

export interface Series {
  /** The CSS variable of its colour. */
  colour: string;
  values: number[];
}

/** How many points are kept: one a second. */
export const POINTS = 120;

export function push(series: Series, value: number): void {
  series.values.push(value);
  if (series.values.length > POINTS) series.values.shift();
}

/** The next round number of bytes above. */
function ceiling(value: number): number {
  let top = 64 * 1024;
  while (top < value) top *= 2;
  return top;
}

export function draw(canvas: HTMLCanvasElement, series: Series[], compact = false): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  if (!context) return;
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const top = ceiling(Math.max(0, ...series.flatMap((one) => one.values)));
  const [above, below] = compact ? [2, 1] : [6, 1];
  const y = (value: number) => height - below - (value / top) * (height - above - below);
  const x = (index: number, count: number) => width - (count - 1 - index) * (width / (POINTS - 1));
  if (!compact) {
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    context.font = `11px ${style.fontFamily}`;
    context.fillStyle = colour("--quiet");
    context.fillText("2 min ago", 2, height - below - 4);
    for (const part of [0, 0.5, 1]) {
      const line = Math.round(y(top * part)) + 0.5;
      context.beginPath();
      context.moveTo(0, line);
      context.lineTo(width, line);
      context.stroke();
      if (part > 0) context.fillText(`${bytes(top * part)}/s`, 2, line + 12);
    }
  }
  for (const { values, colour: name } of series) {
    if (values.length < 2) continue;
    const line = new Path2D();
    values.forEach((value, index) => line.lineTo(x(index, values.length), y(value)));
    const area = new Path2D(line);
    area.lineTo(width, height - below);
    area.lineTo(x(0, values.length), height - below);
    context.fillStyle = colour(name);
    context.globalAlpha = 0.14;
    context.fill(area);
    context.globalAlpha = 1;
    context.strokeStyle = colour(name);
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    context.stroke(line);
  }
}

// Figures for people.

import { formatBytes } from "../base/units.ts";

/** `84100` to `84.1k`. */
export function formatCount(value: number): string {
  if (value < 1000) return value < 10 && value % 1 !== 0 ? value.toFixed(1) : value.toFixed(0);
  if (value < 1e6) return `${(value / 1e3).toFixed(1)}k`;
  return `${(value / 1e6).toFixed(2)}M`;
}

/** `12.3 us`, `4.56 ms`, `1.20 s`. */
export function formatMicroseconds(us: number): string {
  if (us < 1000) return `${us.toFixed(us < 10 ? 1 : 0)} us`;
  if (us < 1e6) return `${(us / 1e3).toFixed(2)} ms`;
  return `${(us / 1e6).toFixed(2)} s`;
}

/** `3 nodes`, `1 copy`. */
export function countOf(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Rounded down: 100% is all of it. */
export function formatPercent(part: number, whole: number): string {
  return whole === 0 ? "0%" : `${Math.floor((part / whole) * 100)}%`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(Math.round(bytesPerSecond))}/s`;
}

/** `4m12s`, `3d4h`: the two greatest units. */
export function formatDuration(seconds: number): string {
  const units: readonly (readonly [string, number])[] = [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
    ["s", 1],
  ];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0s";
  let rest = Math.floor(seconds);
  let text = "";
  for (const [suffix, size] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) text += `${count}${suffix}`;
  }
  return text;
}

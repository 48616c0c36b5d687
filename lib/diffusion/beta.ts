/** Quantiles of the beta distribution, for schedules that space timesteps by them (Lee et al. 2024, "Beta Sampling is All You Need"). */

/** x at which the share `p` of the beta distribution of `a` and `b` is below; scipy.stats.beta.ppf. */
export function betaQuantile(p: number, a: number, b: number): number {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  if (a === b && p === 0.5) return 0.5; // exactly: timesteps made of it are rounded
  // the tail near 1 is found from the other side, where numbers are denser
  if (p > betaShare(0.5, a, b)) return 1 - lowQuantile(1 - p, b, a);
  return lowQuantile(p, a, b);
}

/** Bisection in log x below ½: the density is infinite at 0 where a < 1. */
function lowQuantile(p: number, a: number, b: number): number {
  let [low, high] = [-700, Math.log(0.5)];
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (betaShare(Math.exp(middle), a, b) < p) low = middle;
    else high = middle;
  }
  return Math.exp((low + high) / 2);
}

/** The regularised incomplete beta function: the share of the distribution below x. */
function betaShare(x: number, a: number, b: number): number {
  if (x > (a + 1) / (a + b + 2)) return 1 - betaShare(1 - x, b, a);
  const front = Math.exp(
    a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b),
  );
  return front / a * fraction(x, a, b);
}

/** Its continued fraction (Abramowitz & Stegun 26.5.8) by Lentz' method. */
function fraction(x: number, a: number, b: number): number {
  let [c, d, value] = [1, 0, 1];
  // the first term is 1, so that the fraction is what comes beside that 1
  for (let i = 0; i < 500; i++) {
    const m = i >> 1;
    const term = i === 0
      ? 1
      : i % 2 === 0
      ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
      : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + term * d);
    c = 1 + term / c;
    const change = c * d;
    value *= change;
    if (i > 0 && Math.abs(change - 1) < 1e-16) break;
  }
  return value - 1;
}

/** log Γ(x) for x > 0: Stirling's series where it converges fast, reached by Γ(x + 1) = x·Γ(x). */
function logGamma(x: number): number {
  let shift = 0;
  for (; x < 12; x++) shift += Math.log(x);
  const square = 1 / (x * x);
  const series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / x;
  return (x - 0.5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + series - shift;
}

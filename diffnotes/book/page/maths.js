// The mathematics of the figures that move, in float64. Each function has the name of its twin in the Python package,
// and the label of its equation stands behind it. A point is an array of its coordinates; t runs over 1..T, and index 0
// of every table is the data. tests/book/test_explore.py holds each function to its twin, in a browser.
var explore = explore || {};
explore.maths = (() => {
  "use strict";
  const { PI, abs, cos, exp, expm1, floor, hypot, imul, log, log1p, max, sin, sqrt } = Math;
  const range = (n, f = (i) => i) => Array.from({ length: n }, (_, i) => f(i));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const distance = (a, b) => hypot(...a.map((v, i) => v - b[i]));

  // ---- random numbers: counted, not remembered, so that any language can make the same ones --------------------------

  const mixed = (k) => {
    k = imul(k ^ (k >>> 16), 0x21f0aaad);
    k = imul(k ^ (k >>> 15), 0x735a2d97);
    return (k ^ (k >>> 15)) >>> 0;
  };
  const uniform = (seed, i) => (mixed((mixed(seed) + imul(i, 0x9e3779b9)) >>> 0) + 0.5) / 2 ** 32;
  const normal = (seed, i) => sqrt(-2 * log(uniform(seed, 2 * i))) * cos(2 * PI * uniform(seed, 2 * i + 1));
  const normals = (seed, n, d) => range(n, (i) => range(d, (j) => normal(seed, i * d + j)));

  // ---- schedule.py ---------------------------------------------------------------------------------------------------

  const noiseSchedule = (given) => {
    const betas = [0, ...given];
    let total = 0;
    const logAlphaBars = betas.map((beta) => (total += log1p(-beta)));
    const alphaBars = logAlphaBars.map(exp); // (def-alpha-bar)
    const oneMinusAlphaBars = logAlphaBars.map((l) => abs(expm1(l)));
    const noise = oneMinusAlphaBars;
    return {
      T: given.length,
      betas,
      alphas: betas.map((beta) => 1 - beta),
      logAlphaBars,
      alphaBars,
      oneMinusAlphaBars,
      sqrtAlphaBars: logAlphaBars.map((l) => exp(l / 2)),
      sqrtOneMinusAlphaBars: noise.map(sqrt),
      posteriorVariances: betas.map((beta, t) => (t ? (beta * noise[t - 1]) / noise[t] : 0)), // (rev-posterior-variance)
      snr: alphaBars.map((a, t) => a / noise[t]), // (def-snr)
      logSnr: logAlphaBars.map((l, t) => l - log(noise[t])),
    };
  };
  const linear = (T = 1000, start = 1e-4, end = 0.02) =>
    noiseSchedule(range(T, (i) => (start + ((end - start) * i) / max(1, T - 1)) * (1000 / T)));
  // betas that grow by one factor a step
  const growing = (T = 1000, start = 1e-5, end = 0.06) =>
    noiseSchedule(range(T, (i) => start * exp((log(end / start) * i) / (T - 1))));
  const fromAlphaBars = (bars) => noiseSchedule(bars.map((bar, i) => -expm1(log(bar) - (i ? log(bars[i - 1]) : 0))));

  const rounded = (numerator, denominator) => floor((2 * numerator + denominator) / (2 * denominator));
  const timesteps = (T, steps, spacing = "trailing") => {
    if (spacing === "leading") return range(steps, (i) => 1 + i * floor(T / steps));
    if (spacing === "trailing") return range(steps, (i) => rounded((i + 1) * T, steps));
    if (steps === 1) return [T];
    if (spacing === "linspace") return range(steps, (i) => 1 + rounded(i * (T - 1), steps - 1));
    const ts = range(steps, (i) => 1 + rounded(i * i * (T - 1), (steps - 1) ** 2));
    for (let i = 1; i < steps; i++) ts[i] = max(ts[i], ts[i - 1] + 1);
    return ts;
  };
  const pairs = (T, steps, spacing) => {
    const times = [0, ...timesteps(T, steps, spacing)];
    return range(steps, (i) => [times[i + 1], times[i]]).reverse();
  };

  // ---- forward.py, reverse.py ----------------------------------------------------------------------------------------

  const qSample = (schedule, x0, t, noise) => {
    const [signal, blur] = [schedule.sqrtAlphaBars[t], schedule.sqrtOneMinusAlphaBars[t]];
    return x0.map((x, i) => signal * x + blur * noise[i]); // (fwd-jump)
  };
  const predictX0 = (schedule, xt, t, eps) =>
    xt.map((x, i) => (x - schedule.sqrtOneMinusAlphaBars[t] * eps[i]) / schedule.sqrtAlphaBars[t]); // (rev-x0-from-eps)
  const predictEps = (schedule, xt, t, x0) =>
    xt.map((x, i) => (x - schedule.sqrtAlphaBars[t] * x0[i]) / schedule.sqrtOneMinusAlphaBars[t]); // (rev-eps-from-x0)
  const score = (schedule, t, eps) => eps.map((e) => -e / schedule.sqrtOneMinusAlphaBars[t]); // (rev-score-eps)
  const driftParts = (schedule, xt, t, eps) => {
    const [beta, root] = [schedule.betas[t], sqrt(schedule.alphas[t])];
    const rescaling = xt.map((x) => expm1(-log1p(-beta) / 2) * x);
    const towards = eps.map((e) => (-beta / (root * schedule.sqrtOneMinusAlphaBars[t])) * e);
    return { rescaling, towards, drift: rescaling.map((r, i) => r + towards[i]) }; // (rev-drift)
  };
  // from t to any s < t: the mean of DDPM's step back, and the deviation of its noise
  const ddpmStep = (schedule, xt, eps, t, s, noise) => {
    const [logT, logS, before] = [schedule.logAlphaBars[t], schedule.logAlphaBars[s], schedule.oneMinusAlphaBars[s]];
    const [alpha, beta] = [exp(logT - logS), -expm1(logT - logS)]; // (rev-sub-beta)
    const mean = xt.map((x, i) => (x - (beta / schedule.sqrtOneMinusAlphaBars[t]) * eps[i]) / sqrt(alpha)); // (rev-p-mean)
    const sigma = sqrt((beta * before) / schedule.oneMinusAlphaBars[t]); // (rev-posterior-variance)
    return { mean, sigma, xs: mean.map((m, i) => m + sigma * noise[i]) }; // (rev-ancestral-step)
  };

  // ---- ddim.py -------------------------------------------------------------------------------------------------------

  const shares = (schedule, t, s, eta) => {
    const [logT, logS] = [schedule.logAlphaBars[t], schedule.logAlphaBars[s]];
    const [noiseT, noiseS] = [schedule.oneMinusAlphaBars[t], schedule.oneMinusAlphaBars[s]];
    const most = sqrt((noiseS / noiseT) * -expm1(logT - logS));
    const least = (exp((logT - logS) / 2) * noiseS) / sqrt(noiseT);
    return { sigma: eta * most, turn: hypot(least, sqrt(1 - eta ** 2) * most) }; // (ddim-sigma) and (ddim-budget)
  };
  const ddimSigma = (schedule, t, s, eta) => shares(schedule, t, s, eta).sigma;
  const ddimStep = (schedule, xt, eps, t, s, eta, noise) => {
    const { sigma, turn } = shares(schedule, t, s, eta);
    const x0Part = predictX0(schedule, xt, t, eps).map((x) => schedule.sqrtAlphaBars[s] * x); // (ddim-x0)
    const directionPart = eps.map((e) => turn * e);
    const noisePart = eps.map((_, i) => sigma * noise[i]);
    return { x0Part, directionPart, noisePart, xs: x0Part.map((x, i) => x + directionPart[i] + noisePart[i]) }; // (ddim-step)
  };
  const zero = (x) => x.map(() => 0);
  // the whole path from x_T to x_0; `noise(k)` is the normal vector of jump k, and the last jump has none
  const ddimSample = (schedule, model, xT, jumps, eta, noise) => {
    const path = [xT];
    jumps.forEach(([t, s], k) => {
      const x = path[k];
      path.push(ddimStep(schedule, x, model(x, t), t, s, eta, eta && s ? noise(k) : zero(x)).xs);
    });
    return path;
  };
  const ddpmSample = (schedule, model, xT, jumps, noise) => {
    const path = [xT];
    jumps.forEach(([t, s], k) => {
      const x = path[k];
      path.push(ddpmStep(schedule, x, model(x, t), t, s, s ? noise(k) : zero(x)).xs);
    });
    return path;
  };
  const dpmpp2mSample = (schedule, model, xT, jumps) => {
    const path = [xT];
    let [x0, h] = [xT, Infinity];
    jumps.forEach(([t, s], k) => {
      const [x, before, hBefore] = [path[k], x0, h];
      h = schedule.logSnr[s] - schedule.logSnr[t];
      x0 = predictX0(schedule, x, t, model(x, t));
      const weight = s ? h / (2 * hBefore) : 0;
      const middle = x0.map((v, i) => v + weight * (v - before[i])); // (ddim-2m)
      const turn = schedule.sqrtOneMinusAlphaBars[s] / schedule.sqrtOneMinusAlphaBars[t];
      path.push(x.map((v, i) => turn * v + (schedule.sqrtAlphaBars[s] - turn * schedule.sqrtAlphaBars[t]) * middle[i]));
    });
    return path;
  };

  // ---- guidance.py ---------------------------------------------------------------------------------------------------

  const guided = (labelled, without, w) => (x, t) => {
    const [a, b] = [labelled(x, t), without(x, t)];
    return a.map((e, i) => (1 + w) * e - w * b[i]); // (gen-guidance)
  };

  // ---- mixture.py: weights (K), means (K, d), covariances (K, d, d), with d = 1 or 2 --------------------------------

  const inverse = (m) => {
    if (m.length === 1) return { rows: [[1 / m[0][0]]], det: m[0][0] };
    const det = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    return { rows: [[m[1][1] / det, -m[0][1] / det], [-m[1][0] / det, m[0][0] / det]], det };
  };
  const product = (a, b) => a.map((row) => b[0].map((_, j) => sum(row.map((v, k) => v * b[k][j]))));
  const apply = (m, v) => m.map((row) => sum(row.map((a, i) => a * v[i])));
  const combined = (a, m, b) => m.map((row, i) => row.map((v, j) => a * v + (i === j ? b : 0))); // a m + b I

  // signal x_0 + sqrt(noise) eps, for x_0 from the mixture: again a mixture, made ready for `logJoint`
  const spread = ({ weights, means, covariances }, signal, noise) => {
    const after = covariances.map((c) => combined(signal ** 2, c, noise)); // (fwd-mixture)
    const inverses = after.map(inverse);
    return {
      weights,
      means: means.map((m) => m.map((v) => signal * v)),
      covariances: after,
      precisions: inverses.map(({ rows }) => rows),
      logs: inverses.map(({ det }, k) => log(weights[k]) - (log(det) + means[k].length * log(2 * PI)) / 2),
    };
  };
  const diffuse = (mixture, schedule, t) => spread(mixture, schedule.sqrtAlphaBars[t], schedule.oneMinusAlphaBars[t]);
  const logJoint = ({ means, precisions, logs }, x) => {
    const out = new Float64Array(logs.length);
    for (let k = 0; k < out.length; k++) {
      const [p, dx] = [precisions[k], x[0] - means[k][0]];
      let square = p[0][0] * dx * dx;
      if (x.length > 1) {
        const dy = x[1] - means[k][1];
        square += (p[0][1] + p[1][0]) * dx * dy + p[1][1] * dy * dy;
      }
      out[k] = logs[k] - square / 2; // log q(k, x)
    }
    return out;
  };
  // what softmax needs: the shares before they are divided by their sum, which stand in the place of `values`
  const exponentials = (values) => {
    let [most, total] = [-Infinity, 0];
    for (let k = 0; k < values.length; k++) most = max(most, values[k]);
    for (let k = 0; k < values.length; k++) total += values[k] = exp(values[k] - most);
    return { most, total };
  };
  const softmax = (values) => {
    const { total } = exponentials(values);
    return Array.from(values, (v) => v / total); // (gen-posterior)
  };
  const ready = (mixture) => (mixture.logs ? mixture : spread(mixture, 1, 0));
  const logProb = (mixture, x) => {
    const { most, total } = exponentials(logJoint(ready(mixture), x));
    return most + log(total); // (def-marginal)
  };
  const responsibilities = (mixture, schedule, x, t) => softmax(logJoint(diffuse(mixture, schedule, t), x));
  // grad log q and, on a line, its derivative
  const scoreOf = (mixture, x) => {
    const at = ready(mixture);
    const share = softmax(logJoint(at, x));
    const pulls = at.means.map((m, k) => apply(at.precisions[k], m.map((v, i) => v - x[i])));
    return x.map((_, i) => sum(pulls.map((pull, k) => share[k] * pull[i]))); // (rev-score-average)
  };
  const curvature = (mixture, x) => {
    const at = ready(mixture);
    const share = softmax(logJoint(at, [x]));
    const pulls = at.means.map((m, k) => at.precisions[k][0][0] * (m[0] - x));
    const slope = sum(pulls.map((pull, k) => share[k] * pull));
    return sum(pulls.map((pull, k) => share[k] * (pull ** 2 - at.precisions[k][0][0]))) - slope ** 2;
  };
  // E[x_0 | x_t] for many x_t: what depends on t alone is worked out once
  const denoiser = (mixture, schedule) => {
    const levels = [];
    const prepare = (t) => {
      const level = diffuse(mixture, schedule, t);
      // x_0 in component k is on average home + back x_t
      const back = mixture.covariances.map((c, k) => combined(schedule.sqrtAlphaBars[t], product(c, level.precisions[k]), 0));
      const home = mixture.means.map((m, k) => apply(back[k], level.means[k]).map((v, i) => m[i] - v));
      return { ...level, back, home };
    };
    return (x, t) => {
      const level = (levels[t] ??= prepare(t));
      const share = logJoint(level, x);
      const { total } = exponentials(share);
      const guess = zero(x);
      for (let k = 0; k < share.length; k++) {
        const [home, back] = [level.home[k], level.back[k]];
        for (let i = 0; i < guess.length; i++) {
          let value = home[i];
          for (let j = 0; j < guess.length; j++) value += back[i][j] * x[j];
          guess[i] += (share[k] / total) * value; // (rev-tweedie), (gen-minimiser)
        }
      }
      return guess;
    };
  };
  const denoise = (mixture, schedule, x, t) => denoiser(mixture, schedule)(x, t);
  const epsOf = (mixture, schedule) => {
    const guess = denoiser(mixture, schedule);
    return (x, t) => predictEps(schedule, x, t, guess(x, t)); // (gen-minimiser)
  };
  // q(x_{t-1} | x_t), a mixture too
  const reversePosterior = (mixture, schedule, x, t) => {
    const before = spread(mixture, schedule.sqrtAlphaBars[t - 1], schedule.oneMinusAlphaBars[t - 1]);
    const [keep, add] = [sqrt(schedule.alphas[t]), schedule.betas[t]];
    const steps = before.covariances.map((c) => product(c, inverse(combined(keep ** 2, c, add)).rows));
    return {
      weights: softmax(logJoint(spread(before, keep, add), x)), // (rev-bayes)
      means: before.means.map((m, k) => apply(steps[k], x.map((v, i) => keep * (v - keep * m[i]))).map((v, i) => m[i] + v)),
      covariances: steps.map((step) => step.map((row) => row.map((v) => add * v))),
    };
  };

  // n points; each takes one number for its component and d for its place, which along the columns of a root of C are normal
  const sample = ({ weights, means, covariances }, n, seed) =>
    range(n, (i) => {
      let [k, left] = [0, uniform(seed, i)];
      while (k < weights.length - 1 && (left -= weights[k]) >= 0) k++;
      const [mean, c, z] = [means[k], covariances[k], means[k].map((_, j) => normal(seed + 1, i * means[k].length + j))];
      const first = sqrt(c[0][0]);
      const across = mean.length > 1 ? [c[1][0] / first, sqrt(c[1][1] - (c[1][0] / first) ** 2)] : [];
      return mean.map((v, j) => v + (j ? across[0] * z[0] + across[1] * z[1] : first * z[0]));
    });

  // ---- on a line -----------------------------------------------------------------------------------------------------

  const erf = (z) => {
    if (abs(z) > 6) return z > 0 ? 1 : -1;
    let [term, total] = [z, z];
    for (let n = 1; abs(term) > 1e-17 * abs(total); n++) total += term *= (2 * z * z) / (2 * n + 1);
    return (2 / sqrt(PI)) * exp(-z * z) * total; // a series of positive terms: no digits cancel
  };
  const normalCdf = (z) => (1 + erf(z / sqrt(2))) / 2;
  const logNormal = (x, mean, variance) => -((x - mean) ** 2 / variance + log(2 * PI * variance)) / 2;
  const bestGaussian = ({ weights, means, covariances }) => {
    const mean = sum(weights.map((w, k) => w * means[k][0]));
    const variance = sum(weights.map((w, k) => w * (covariances[k][0][0] + (means[k][0] - mean) ** 2)));
    return { mean, variance }; // (rev-best-gaussian)
  };
  const trapezoid = (values, grid) =>
    sum(range(grid.length - 1, (i) => ((values[i] + values[i + 1]) * (grid[i + 1] - grid[i])) / 2));
  const kl = (logQ, logP, grid) => trapezoid(logQ.map((l, i) => exp(l) * (l - logP[i])), grid); // (def-kl)

  // ---- chapter 3: two states, three steps ----------------------------------------------------------------------------

  const paths = range(16, (i) => [(i >> 3) & 1, (i >> 2) & 1, (i >> 1) & 1, i & 1]); // x_0 x_1 x_2 x_3
  const marginal = (joint, kept, x) =>
    sum(joint.filter((_, i) => kept.every((axis) => paths[i][axis] === x[axis])));
  const law = (joint, what, given, x) => marginal(joint, [...what, ...given], x) / marginal(joint, given, x);
  const chain = paths.map(([a, b, c, d]) => {
    const step = (from, to, flip) => (from === to ? 1 - flip : flip);
    return [0.2, 0.8][a] * step(a, b, 0.1) * step(b, c, 0.2) * step(c, d, 0.3);
  });
  // the exact steps back, with a share of coin-tossing in each, from a fair coin
  const blundering = (tossed) =>
    paths.map((x) => {
      const back = [1, 2, 3].map((t) => (1 - tossed[t - 1]) * law(chain, [t - 1], [t], x) + tossed[t - 1] / 2);
      return (back[0] * back[1] * back[2]) / 2;
    });
  // the terms of the bound for x_0 = 0 or 1, -log p(x_0) and what the bound loses
  const vlbTerms = (p, x0) => {
    const mean = (value) => sum(paths.filter((x) => x[0] === x0).map((x) => law(chain, [1, 2, 3], [0], x) * value(x)));
    const against = (what, known, given) => (x) => log(law(chain, what, known, x) / law(p, what, given, x));
    return {
      L3: mean(against([3], [0], [])), // (def-terms)
      L2: mean(against([2], [3, 0], [3])),
      L1: mean(against([1], [2, 0], [2])),
      L0: mean((x) => -log(law(p, [0], [1], x))),
      nll: -log(marginal(p, [0], [x0])),
      gap: mean(against([1, 2, 3], [0], [0])), // (obj-gap)
    };
  };

  // ---- chapter 1: another factor before x_{t-1} ----------------------------------------------------------------------

  const variances = (start, power, beta, T) => {
    const keep = (1 - beta) ** power;
    const v = [start];
    for (let t = 1; t <= T; t++) v.push(keep ** 2 * v[t - 1] + beta); // (fwd-variance-step), for any factor
    return v;
  };

  // ---- data.py -------------------------------------------------------------------------------------------------------

  const standardised = (weights, means, covariances) => {
    const mean = means[0].map((_, i) => sum(weights.map((w, k) => w * means[k][i])));
    const std = mean.map((m, i) => sqrt(sum(weights.map((w, k) => w * (covariances[k][i][i] + (means[k][i] - m) ** 2)))));
    return {
      weights,
      means: means.map((mu) => mu.map((v, i) => (v - mean[i]) / std[i])),
      covariances: covariances.map((c) => c.map((row, i) => row.map((v, j) => v / (std[i] * std[j])))),
    };
  };
  const round = (variance) => [[variance, 0], [0, variance]];
  const mixture1d = () => standardised([0.3, 0.7], [[-1.5], [1]], [[[0.25 ** 2]], [[0.5 ** 2]]]);
  const mixture2d = () =>
    standardised([0.5, 0.3, 0.2], [[-1.5, 0.5], [1, 1], [0.5, -1.5]],
      [[[0.3, 0.2], [0.2, 0.2]], [[0.1, -0.05], [-0.05, 0.2]], [[0.5, 0], [0, 0.04]]]);
  const ring = (K = 8, std = 0.1) => {
    const radius = sqrt(2 * (1 - std ** 2));
    const angles = range(K, (k) => (2 * PI * k) / K);
    return {
      weights: range(K, () => 1 / K),
      means: angles.map((a) => [radius * cos(a), radius * sin(a)]),
      covariances: range(K, () => round(std ** 2)),
    };
  };
  // the means of u cos u and u sin u, and of their squares, over the angles of the spiral
  const moments = [[2, 39 / 8 * PI ** 2 - 1 / 4], [2 / (3 * PI), 39 / 8 * PI ** 2 + 1 / 4]];
  const spiral = (share, noise) => {
    const u = PI * (1.5 + 3 * share);
    return [u * cos(u), u * sin(u)].map((v, i) => {
      const [mean, square] = moments[i];
      return (sqrt(1 - noise ** 2) * (v - mean)) / sqrt(square - mean ** 2);
    });
  };
  const swissRollMixture = (K = 1000, noise = 0.05) => ({
    weights: range(K, () => 1 / K),
    means: range(K, (k) => spiral((k + 0.5) / K, noise)),
    covariances: range(K, () => round(noise ** 2)),
  });
  const swissRoll = (n, seed, noise = 0.05) =>
    range(n, (i) => spiral(uniform(seed, i), noise).map((v, j) => v + noise * normal(seed + 1, 2 * i + j)));
  const dataMixture = (points) => ({
    weights: points.map(() => 1 / points.length),
    means: points,
    covariances: points.map((p) => combined(0, p.map(() => p), 0)),
  });
  // three overlapping classes, and each by itself
  const crowd = (labels = [0, 1, 2]) => ({
    weights: labels.map(() => 1 / labels.length),
    means: labels.map((k) => [cos((2 * PI * k) / 3), sin((2 * PI * k) / 3)]),
    covariances: labels.map(() => round(0.35)),
  });

  return {
    range, sum, distance, uniform, normal, normals, noiseSchedule, linear, growing, fromAlphaBars, timesteps, pairs, qSample,
    sample, predictX0, predictEps, score, driftParts, ddpmStep, shares, ddimSigma, ddimStep, ddimSample, ddpmSample,
    dpmpp2mSample, guided, diffuse, logProb, responsibilities, scoreOf, curvature, denoiser, denoise, epsOf,
    reversePosterior, erf, normalCdf, logNormal, bestGaussian, trapezoid, kl, blundering, vlbTerms, variances,
    mixture1d, mixture2d, ring, swissRollMixture, swissRoll, dataMixture, crowd,
  };
})();

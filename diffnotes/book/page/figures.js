// The figures that move. Each has its words and one function that builds it; what it computes is in maths.js, what it is
// drawn with in draw.js. The state a figure starts from is in stills.py, beside its static picture.
{
  "use strict";
  const { figures, maths: m } = explore;
  const schedule = m.linear(1000);
  const { exp, sqrt, log, hypot, max, PI } = Math;
  // the forty times of chapter 2's three rows, closer together near the data
  const long = m.growing(1000);
  const walk = m.fromAlphaBars(m.range(40, (i) => long.alphaBars[Math.round(200 + 800 * (i / 39) ** 1.5)]));

  // ---- chapter 1 -----------------------------------------------------------------------------------------------------

  figures["two-bells"] = {
    words: {
      en: {
        title: "Two samples, red and blue, lose their identity on the way to noise",
        bells: "Two bells: where x_t lies if it came from the red sample, and if it came from the blue one",
        curve: "A curve over t: the probability that the best guess of the colour is right",
        point: "Half the distance of red and blue",
        controls: { t: "time *t*", half: "half the distance" },
        legend: ["*x*_t from red", "*x*_t from blue"],
        right: "right guess",
        says: ["*ᾱ*_t = {alphaBar}, SNR = {snr}.", "Shown one *x*_t, the best guess of its colour is right with probability {right}."],
        try: "Find the time at which you can no longer tell the colours apart. Then pull red and blue further apart, and find it again.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      const bells = fig.panel({ x: [-4, 4], y: [-0.12, 1.15], height: 240, label: w.bells, share: 0.6, xTicks: [-4, -2, 0, 2, 4], xLabel: "*x*_t" });
      const curve = fig.panel({ x: [0, 1000], y: [0.5, 1.02], height: 240, label: w.curve, share: 0.4, xTicks: [0, 500, 1000], yTicks: [0.5, 0.75, 1], xLabel: "*t*", yLabel: w.right });
      for (const [sign, look] of [[1, "red"], [-1, "blue"]])
        bells.handle({ label: w.point, along: "x", look, get: () => [sign * state.half, 0], set: ([x]) => (state.half = Math.min(max(sign * x, 0.1), 2.5)) });
      fig.legend([["area red", w.legend[0]], ["area blue", w.legend[1]]]);
      fig.slider("t", { min: 1, max: 1000 });
      fig.slider("half", { min: 0.1, max: 2.5, step: 0.05 });
      const right = (t) => m.normalCdf(state.half * sqrt(schedule.snr[t])); // (fwd-identity)
      return () => {
        const { t, half } = state;
        const [mean, variance] = [schedule.sqrtAlphaBars[t] * half, schedule.oneMinusAlphaBars[t]];
        const grid = (centre) => m.range(161, (i) => centre + ((i - 80) / 80) * 4.5 * sqrt(variance));
        for (const [sign, look] of [[1, "red"], [-1, "blue"]]) {
          const bell = grid(sign * mean).map((x) => [x, exp(-((x - sign * mean) ** 2) / (2 * variance))]); // (fwd-closed-form)
          bells.area(bell, look);
          bells.line(bell, look);
        }
        curve.line(m.range(251, (i) => max(1, 4 * i)).map((time) => [time, right(time)]), "ink");
        curve.dot([t, right(t)], "ink", 6);
        fig.tell({ alphaBar: schedule.alphaBars[t], snr: schedule.snr[t], right: right(t) });
      };
    },
  };

  figures.root = {
    words: {
      en: {
        title: "The variance over many steps, for a signal that is multiplied by a power of 1 − beta",
        curve: "A curve over t: the variance of x_t",
        point: "Variance of the data",
        controls: { power: "power *p*", beta: "*β*" },
        legend: ["variance of *x*_t", "1"],
        axis: "variance",
        says: ["*x*_t = (1 − *β*)^p *x*_{t−1} + √*β* *z*_t. From {start} the variance comes to {end} in 200 steps, on its way to {limit}."],
        try: "Which power keeps the variance at 1? Set it, then drag the variance of the data away from 1 and see it come back.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      const curve = fig.panel({ x: [0, 200], y: [0, 3], height: 260, label: w.curve, xTicks: [0, 50, 100, 150, 200], yTicks: [0, 1, 2, 3], xLabel: "step *t*", yLabel: w.axis });
      curve.handle({ label: w.point, along: "y", look: "blue", get: () => [0, state.start], set: ([, v]) => (state.start = v) });
      fig.legend([["blue thick", w.legend[0]], ["grey dashed", w.legend[1]]]);
      fig.slider("power", { min: 0, max: 1, step: 0.01 });
      fig.slider("beta", { min: 0.002, max: 0.2, step: 0.002 });
      return () => {
        const { power, beta, start } = state;
        const v = m.variances(start, power, beta, 200);
        curve.line([[0, 1], [200, 1]], "grey dashed");
        curve.line(v.map((value, t) => [t, value]), "blue thick");
        fig.tell({ start, end: v[200], limit: power ? beta / -Math.expm1(2 * power * Math.log1p(-beta)) : Infinity });
      };
    },
  };

  // ---- chapter 2 -----------------------------------------------------------------------------------------------------

  figures["reverse-step"] = {
    words: {
      en: {
        title: "One step back: the forward step, times where the points live",
        curves: "Four curves over x at t − 1: where the points live, the forward step to the given point, the reverse step, and its best Gaussian",
        point: "The given point x_t",
        controls: { beta: "*β*_t", bar: "*ᾱ*_{t−1}", mirrored: "mirror the data" },
        legend: ["*q*(*x*_{t−1}): where points live", "*q*(*x*_t | *x*_{t−1}): the forward step", "*q*(*x*_{t−1} | *x*_t): the way back", "its best Gaussian"],
        says: ["The way back has {humps} in this place, and is {kl} nats from its best Gaussian.", "*β*/(1 − *β*) · max *f*″ = {edge}: {verdict}"],
        scale: "densities, each to a height of its own",
        one: "one hump", two: "two humps",
        below: "at most 1, so one hump wherever *x*_t lies.", above: "above 1, so two humps for some *x*_t.",
        try: "Drag *x*_t back and forth. Make *β* small: the way back becomes a Gaussian. Mirror the data: same point, same step, another answer.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      const data = m.mixture1d();
      const curves = fig.panel({ x: [-3, 3], y: [-0.1, 1.15], height: 290, yLabel: w.scale, label: w.curves, xTicks: [-3, -2, -1, 0, 1, 2, 3], xLabel: "*x*_{t−1}" });
      curves.handle({ label: w.point, along: "x", name: "*x*_t", get: () => [state.x, 0], set: ([x]) => (state.x = x) });
      fig.legend(["area grey", "grey dashed", "blue thick", "red dotted thick"].map((look, i) => [look, w.legend[i]]));
      fig.slider("beta", { min: 0.01, max: 0.99, step: 0.01 });
      fig.slider("bar", { min: 0.02, max: 0.99, step: 0.01 });
      fig.check("mirrored");
      const grid = m.range(3601, (i) => (i - 1800) / 200);
      const seen = m.range(601, (i) => (i - 300) / 100);
      return () => {
        const { beta, bar, mirrored, x } = state;
        const mixture = { ...data, means: data.means.map(([v]) => [mirrored ? -v : v]) };
        const steps = m.fromAlphaBars([bar, bar * (1 - beta)]);
        const home = m.diffuse(mixture, steps, 1);
        const back = m.reversePosterior(mixture, steps, [x], 2);
        const { mean, variance } = m.bestGaussian(back);
        const logQ = grid.map((y) => m.logProb(back, [y]));
        const kl = m.kl(logQ, grid.map((y) => m.logNormal(y, mean, variance)), grid);
        const humps = logQ.filter((l, i) => i && i < 3600 && l > logQ[i - 1] && l > logQ[i + 1]).length;
        const most = m.range(801, (i) => m.curvature(home, (i - 400) / 100)).reduce((a, b) => max(a, b));
        const edge = (beta / (1 - beta)) * most; // (rev-one-hump)
        const curve = (f) => seen.map((y) => [y, f(y)]);
        const own = (f, high) => {
          const peak = seen.map(f).reduce((a, b) => max(a, b));
          return curve((y) => (high * f(y)) / peak);
        };
        const reverse = (y) => exp(m.logProb(back, [y]));
        const peak = seen.map(reverse).reduce((a, b) => max(a, b));
        curves.area(own((y) => exp(m.logProb(home, [y])), 0.6), "grey");
        curves.line(own((y) => exp(m.logNormal(x, sqrt(1 - beta) * y, beta)), 0.9), "grey dashed");
        curves.line(curve((y) => reverse(y) / peak), "blue thick");
        curves.line(curve((y) => exp(m.logNormal(y, mean, variance)) / peak), "red dotted thick");
        curves.line([[x, 0], [x, 1.15]], "ink thin dotted");
        const says = { humps: humps > 1 ? w.two : w.one, kl, edge, verdict: edge > 1 ? w.above : w.below };
        fig.tell({ ...says, number: humps, mean, variance });
      };
    },
  };

  figures.drift = {
    words: {
      en: {
        title: "The drift of one step back, in two parts",
        plane: "The plane: noisy data at t, a point to drag, and the arrows of its step back",
        point: "The point x_t",
        controls: { t: "time *t*", step: "step", still: "step without noise", over: "start over" },
        legend: ["rescaling part", "score part", "drift: their sum", "the guess *x̂*_0"],
        says: ["Rescaling ({aX}, {aY}) + score ({bX}, {bY}) = drift ({dX}, {dY}).", "A step to *t* − 1 also adds noise of size {noise} in each coordinate. The arrows are drawn × {by}."],
        arrived: ["*t* = 0: arrived at ({x}, {y}).", "“Start over” goes back to where you last put the point."],
        try: "Take steps without noise, then start over and take steps with it. An arrow is not the way that a point goes: in one step the noise is larger.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      fig.beside = true;
      const mixture = m.swissRollMixture(200);
      const model = m.epsOf(mixture, walk);
      const [data, noise] = [m.swissRoll(500, 8), m.normals(10, 500, 2)];
      const plane = fig.panel({ x: [-3, 3], y: [-3, 3], square: true, label: w.plane });
      let [trail, start] = [[], { x: state.x, t: state.t }];
      const moved = () => ([trail, start] = [[], { x: state.x, t: state.t }]);
      plane.handle({ label: w.point, name: "*x*_t", get: () => state.x, set: (x) => ((state.x = x), moved()) });
      fig.legend(["blue wide", "red wide", "ink", "mark blue ring"].map((look, i) => [look, w.legend[i]]));
      fig.slider("t", { min: 0, max: 40 }).addEventListener("input", moved);
      const step = (fresh) => () => {
        const { x, t } = state;
        if (!t) return;
        trail.push(x);
        const z = m.normals(state.seed, 41, 2)[t].map((v) => (fresh && t > 1 ? v : 0));
        state.x = m.ddpmStep(walk, x, model(x, t), t, t - 1, z).xs;
        state.t = t - 1;
      };
      fig.button("step", step(true));
      fig.button("still", step(false));
      fig.button("over", () => {
        Object.assign(state, start);
        state.seed++;
        trail = [];
      });
      return () => {
        const { x, t } = state;
        plane.dots(t ? data.map((x0, i) => m.qSample(walk, x0, t, noise[i])) : data, "grey pale", 1.5);
        if (trail.length) plane.line([...trail, x], "purple thin");
        if (!t) return fig.tell({ x: x[0], y: x[1] }, w.arrived);
        const eps = model(x, t);
        const { rescaling, towards, drift } = m.driftParts(walk, x, t, eps);
        const guess = m.predictX0(walk, x, t, eps);
        const usual = walk.betas[t] / walk.sqrtOneMinusAlphaBars[t];
        const by = [50, 20, 10, 5, 2].find((factor) => factor * max(usual, 3 * walk.betas[t]) < 2.4) ?? 1;
        const tip = (from, arrow) => from.map((v, i) => v + by * arrow[i]);
        plane.line([x, guess], "blue thin dotted");
        plane.dot(guess, "blue ring", 5);
        plane.arrow(x, tip(x, rescaling), "blue wide", 14);
        plane.arrow(x, tip(x, towards), "red wide", 14);
        plane.arrow(x, tip(x, drift), "ink");
        const { sigma } = m.ddpmStep(walk, x, eps, t, t - 1, [0, 0]);
        fig.tell({ aX: rescaling[0], aY: rescaling[1], bX: towards[0], bY: towards[1], dX: drift[0], dY: drift[1], noise: sigma, by, guess, x });
      };
    },
  };

  // ---- chapter 3 -----------------------------------------------------------------------------------------------------

  figures["two-states"] = {
    words: {
      en: {
        title: "The four terms of the bound for a chain of two states",
        bars: "Two bars, for x_0 = 0 and x_0 = 1: each the sum of four terms, with a line at the exact value",
        controls: { step1: "coin in step 1", step2: "coin in step 2", step3: "coin in step 3" },
        legend: ["*L*_3", "*L*_2", "*L*_1", "*L*_0", "−log *p*(*x*_0)"],
        bar: "*x*_0 = {x}", axis: "nats",
        says: ["In nats, *L*_3 + *L*_2 + *L*_1 + *L*_0 = the bound:", "*x*_0 = 0: {L3_0} + {L2_0} + {L1_0} + {L0_0} = {bound_0}; exactly {nll_0}, gap {gap_0}.", "*x*_0 = 1: {L3_1} + {L2_1} + {L1_1} + {L0_1} = {bound_1}; exactly {nll_1}, gap {gap_1}."],
        try: "Each slider puts a share of coin-tossing into one step of the model. Which term does it move? And what is left of the gap when all three are 0?",
      },
    },
    build(fig) {
      const { w, state } = fig;
      const bars = fig.panel({ x: [0, 1.75], y: [0, 2], height: 210, label: w.bars, xTicks: [0, 0.5, 1, 1.5], xLabel: w.axis });
      fig.legend([...["grey", "blue", "sky", "orange"].map((look, i) => [`full ${look}`, w.legend[i]]), ["ink thick", w.legend[4]]]);
      for (const key of ["step1", "step2", "step3"]) fig.slider(key, { min: 0, max: 1, step: 0.05 });
      return () => {
        const p = m.blundering([state.step1, state.step2, state.step3]);
        const values = {};
        for (const x of [0, 1]) {
          const terms = m.vlbTerms(p, x);
          let left = 0;
          for (const [key, look] of [["L3", "grey"], ["L2", "blue"], ["L1", "sky"], ["L0", "orange"]]) {
            bars.box([left, 1.05 - x + 0.1], [left + terms[key], 1.7 - x], `full ${look}`);
            left += terms[key]; // (obj-vlb)
          }
          bars.line([[terms.nll, 1.08 - x], [terms.nll, 1.77 - x]], "ink thick");
          bars.text([0, 1.8 - x], w.bar.replace("{x}", x), { anchor: "start" });
          for (const [key, value] of Object.entries({ ...terms, bound: left })) values[`${key}_${x}`] = value;
        }
        fig.tell(values);
      };
    },
  };

  // ---- chapter 4 -----------------------------------------------------------------------------------------------------

  figures.jump = {
    words: {
      en: {
        title: "One jump from t to s, and the three arrows that it is made of",
        plane: "The plane: the data, the point x_t to drag, and three arrows from the origin to x_s",
        bar: "A bar: how the noise in x_s is shared between reused and fresh noise",
        point: "The noisy point x_t",
        controls: { t: "from *t*", s: "to *s*", eta: "*η*", again: "new noise", slip: "the slip: *η* in the place of *η*^2" },
        legend: ["√*ᾱ*_s · *x̂*_0", "*κε*, reused noise", "*σz*, fresh noise"],
        room: "1 − *ᾱ*_s",
        axis: "variance of the noise in *x*_s",
        says: ["*κ*^2 + *σ*^2 = {turn2} + {sigma2} = {total}, and the room for noise, 1 − *ᾱ*_s, is {room}.", "*x̂*_0 = ({guessX}, {guessY}) and *x*_s = ({x}, {y})."],
        try: "Drag *x*_t. Then turn *η* from 0 to 1: green grows, red shrinks, and the bar stays exactly full. With the slip it is full at both ends, and too full between them.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      fig.beside = true;
      const mixture = m.mixture2d();
      const model = m.epsOf(mixture, schedule);
      const data = m.sample(mixture, 500, 4);
      const plane = fig.panel({ x: [-3, 3], y: [-3, 3], square: true, label: w.plane });
      const bar = fig.panel({ x: [0, 1.25], y: [0, 1], height: 104, label: w.bar, xTicks: [0, 0.25, 0.5, 0.75, 1], xLabel: w.axis });
      plane.handle({ label: w.point, name: "*x*_t", get: () => state.x, set: (x) => (state.x = x) });
      fig.legend(["blue", "red", "green"].map((look, i) => [`${look} thick`, w.legend[i]]));
      let before = [state.t, state.s];
      fig.slider("t", { min: 1, max: 1000 });
      fig.slider("s", { min: 0, max: 999 });
      fig.slider("eta", { min: 0, max: 1, step: 0.01 });
      fig.check("slip");
      fig.button("again", () => state.seed++);
      return () => {
        if (state.s >= state.t) [state.t, state.s] = state.t !== before[0] ? [state.t, state.t - 1] : [state.s + 1, state.s];
        before = [state.t, state.s];
        const { t, s, x, eta, slip } = state;
        const eps = model(x, t);
        const noise = m.normals(state.seed, 1, 2)[0].map((z) => (slip ? z / Math.sqrt(eta || 1) : z));
        const jump = m.ddimStep(schedule, x, eps, t, s, eta, noise);
        const guess = m.predictX0(schedule, x, t, eps);
        const { sigma, turn } = m.shares(schedule, t, s, eta);
        const [turn2, sigma2, room] = [turn ** 2, slip ? eta * m.ddimSigma(schedule, t, s, 1) ** 2 : sigma ** 2, schedule.oneMinusAlphaBars[s]];
        plane.dots(data, "grey pale", 1.5);
        const turned = jump.x0Part.map((v, i) => v + jump.directionPart[i]);
        plane.dot([0, 0], "ink", 3);
        plane.arrow([0, 0], jump.x0Part, "blue thick");
        plane.arrow(jump.x0Part, turned, "red thick");
        plane.arrow(turned, jump.xs, "green thick");
        plane.dot(guess, "blue ring", 5);
        plane.text(guess, "*x̂*_0", { dy: 20 });
        plane.dot(jump.xs, "ink", 4);
        plane.text(jump.xs, "*x*_s", { dy: -10 });
        bar.box([0, 0.05], [turn2, 0.6], "red full");
        bar.box([turn2, 0.05], [turn2 + sigma2, 0.6], "green full");
        bar.line([[room, 0], [room, 0.7]], "ink thick");
        bar.text([room, 1], w.room, { dy: 13, anchor: room > 0.1 ? "middle" : "start" });
        fig.tell({ turn2, sigma2, total: turn2 + sigma2, room, guessX: guess[0], guessY: guess[1], x: jump.xs[0], y: jump.xs[1] });
      };
    },
  };

  figures.steps = {
    words: {
      en: {
        title: "Samples of an exact model, at any number of steps",
        plane: "The plane: the samples, each in the colour of its start, with a line to where 200 steps take it",
        controls: { steps: "steps *S*", eta: "*η*", seed: "seed", spacing: "times", second: "second order (2M)" },
        options: { trailing: "trailing", linspace: "linspace", quadratic: "quadratic" },
        legend: ["a sample", "to its place at 200 steps", "centres of the data"],
        says: ["From 200 steps down to {steps}, a sample moves {moved} (root mean square).", "Samples lie {off} from the nearest centre; data would lie {ideal}."],
        try: "At *η* = 0 slide the steps down: every point keeps its place as long as it can. At *η* = 1 every number of steps deals anew.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      fig.beside = true;
      const n = 200;
      const mixture = m.ring();
      const model = m.epsOf(mixture, schedule);
      const plane = fig.panel({ x: [-2, 2], y: [-2, 2], square: true, label: w.plane });
      fig.legend([["mark purple", w.legend[0]], ["grey thin", w.legend[1]], ["mark ink ring", w.legend[2]]]);
      fig.slider("steps", { values: [1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 80, 120, 200] });
      fig.slider("eta", { min: 0, max: 1, step: 0.05 }).addEventListener("input", () => {
        if (state.eta) state.second = false;
        fig.changed();
      });
      fig.slider("seed", { min: 1, max: 20 });
      fig.choice("spacing", ["trailing", "linspace", "quadratic"]);
      fig.check("second");
      let known = ["", []];
      const samples = (steps) => {
        const { eta, seed, spacing, second } = state;
        const jumps = m.pairs(1000, steps, spacing);
        return m.normals(seed, n, 2).map((xT, i) => {
          if (second) return m.dpmpp2mSample(schedule, model, xT, jumps).at(-1);
          const fresh = (k) => [0, 1].map((j) => m.normal(1000 * seed + steps, (k * n + i) * 2 + j));
          return m.ddimSample(schedule, model, xT, jumps, eta, fresh).at(-1);
        });
      };
      return () => {
        if (state.second) state.eta = 0;
        const { steps, eta, seed, spacing, second } = state;
        const key = [eta, seed, spacing, second].join();
        if (known[0] !== key) known = [key, samples(200)];
        const points = steps === 200 ? known[1] : samples(steps);
        const starts = m.normals(seed, n, 2);
        points.forEach((x, i) => plane.line([x, known[1][i]], "grey thin pale"));
        for (const centre of mixture.means) plane.dot(centre, "ink ring", 5);
        points.forEach((x, i) => plane.dot(x, "own", 3, `color: hsl(${(Math.atan2(starts[i][1], starts[i][0]) * 180) / PI + 180} 70% 48%)`));
        const rms = (values) => sqrt(m.sum(values.map((v) => v * v)) / n);
        const moved = rms(points.map((x, i) => m.distance(x, known[1][i])));
        const off = rms(points.map((x) => mixture.means.map((c) => m.distance(x, c)).reduce((a, b) => Math.min(a, b))));
        fig.tell({ steps, moved, off, ideal: 0.1 * sqrt(2), points });
      };
    },
  };

  // ---- chapter 5 -----------------------------------------------------------------------------------------------------

  figures.garments = {
    words: {
      en: {
        title: "Six garments, by steps and by eta",
        now: "Six pictures of clothes by {steps} steps at eta {eta}", best: "The same six starts by 100 steps at eta {eta}",
        controls: { steps: "steps", eta: "*η*" },
        rows: ["{steps} steps", "100 steps"],
        says: ["From {steps} to 100 steps at *η* = {eta}, a pixel moves {moved} of the way from black to white (root mean square).", "The Fréchet distance of a thousand such to real pictures is {frechet} ± {error}."],
        try: "At *η* = 0 slide the steps: each garment is drawn with more care and stays the same. Then do it at *η* = 1.",
      },
    },
    build(fig) {
      const { w, state, picture } = fig;
      const [counts, etas] = [[10, 20, 50, 100], [0, 0.2, 0.5, 1]];
      const canvas = fig.html("canvas", { width: 0 });
      const ink = canvas.getContext("2d", { willReadFrequently: true });
      const { left, top, side, gap, frechet } = state;
      const place = (steps, eta, i) => [left + etas.indexOf(eta) * (6 * side + gap) + i * side, top + counts.indexOf(steps) * side];
      const rows = [0, 1].map(() => {
        const name = fig.html("span", {});
        const cells = m.range(6, () => fig.html("canvas", { width: side, height: side }));
        const strip = fig.html("div", { class: "garments", role: "img" }, name, ...cells);
        fig.panels.append(strip);
        return { name, cells, strip };
      });
      fig.slider("steps", { values: counts });
      fig.slider("eta", { values: etas });
      const pixels = (steps, eta, i) => ink.getImageData(...place(steps, eta, i), side, side);
      picture.decode().then(() => {
        [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
        ink.drawImage(picture, 0, 0);
        fig.changed();
      });
      return () => {
        const { steps, eta } = state;
        if (!canvas.width) return;
        rows.forEach(({ name, cells, strip }, row) => {
          name.textContent = fig.told(w.rows[row], { steps });
          strip.setAttribute("aria-label", fig.told(row ? w.best : w.now, { steps, eta }));
          cells.forEach((cell, i) => cell.getContext("2d").putImageData(pixels(row ? 100 : steps, eta, i), 0, 0));
        });
        const squares = m.range(6, (i) => {
          const [a, b] = [pixels(steps, eta, i).data, pixels(100, eta, i).data];
          return m.sum(m.range(side * side, (k) => ((a[4 * k] - b[4 * k]) / 255) ** 2));
        });
        fig.tell({ steps, eta, moved: sqrt(m.sum(squares) / (6 * side * side)), frechet: frechet[`${steps}/${eta}`][0], error: frechet[`${steps}/${eta}`][1] });
      };
    },
  };

  // ---- chapter 6 -----------------------------------------------------------------------------------------------------

  figures["forty-points"] = {
    words: {
      en: {
        title: "What a memoriser guesses, and what the truth is",
        plane: "The plane: forty points in sizes of their weights, a noisy point to drag, and two guesses",
        point: "The noisy point x_t",
        controls: { t: "time *t*" },
        legend: ["the forty points, by weight", "the memoriser's guess", "the true guess", "the roll they came from"],
        says: ["The largest of the forty weights is {most}. Together they count like this number of equal ones: {number}.", "The two guesses are {apart} apart."],
        try: "Put *x*_t between two turns of the roll and let *t* fall. At large *t* both guesses agree; at small *t* the memoriser knows one point only.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      fig.beside = true;
      const points = m.swissRoll(40, 21);
      const few = m.dataMixture(points);
      const roll = m.swissRollMixture(200);
      const [memory, truth] = [m.denoiser(few, schedule), m.denoiser(roll, schedule)];
      const plane = fig.panel({ x: [-2.4, 2.4], y: [-2.4, 2.4], square: true, label: w.plane });
      plane.handle({ label: w.point, name: "*x*_t", get: () => state.x, set: (x) => (state.x = x) });
      fig.legend([["mark orange", w.legend[0]], ["red thick", w.legend[1]], ["blue dashed thick", w.legend[2]], ["grey thin", w.legend[3]]]);
      fig.slider("t", { min: 10, max: 1000 });
      return () => {
        const { x, t } = state;
        const weights = m.responsibilities(few, schedule, x, t);
        const [by, exact] = [memory(x, t), truth(x, t)];
        plane.line(roll.means, "grey thin pale");
        points.forEach((point, i) => plane.dot(point, "orange", 2 + 9 * sqrt(weights[i])));
        plane.arrow(x, exact, "blue dashed thick");
        plane.arrow(x, by, "red thick");
        plane.dot(exact, "blue ring", 6);
        plane.dot(by, "red ring", 6);
        const entropy = -m.sum(weights.map((v) => (v ? v * log(v) : 0)));
        fig.tell({ most: weights.reduce((a, b) => max(a, b)), number: exp(entropy), apart: m.distance(by, exact), by, exact });
      };
    },
  };

  figures.guidance = {
    words: {
      en: {
        title: "Guidance: the tilted density, and what two samplers make of it",
        planes: { tilted: "True samples of the tilted density", ddpm: "Guided samples by DDPM", ddim: "Guided samples by DDIM" },
        controls: { w: "guidance *w*" },
        names: { tilted: "tilted", ddpm: "DDPM", ddim: "DDIM" },
        legend: ["samples", "all data", "centres of the classes"],
        says: ["Width: tilted {tiltedWidth}, DDPM {ddpmWidth}, DDIM {ddimWidth}.", "Centre, to the right: tilted {tiltedCentre}, DDPM {ddpmCentre}, DDIM {ddimCentre}; the class itself has 1."],
        try: "At *w* = 0 all three are the class on the right. Turn *w* up: all become narrower and move away from the other classes, but not alike.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      const n = 250;
      const [all, one] = [m.crowd(), m.crowd([0])];
      const [labelled, without] = [m.epsOf(one, schedule), m.epsOf(all, schedule)];
      const [starts, many, data] = [m.normals(31, n, 2), m.sample(one, 6000, 32), m.sample(all, 400, 34)];
      // log q(y | x_0) for the first class
      const sure = many.map((x) => m.logProb(one, x) - m.logProb(all, x) - log(3));
      const jumps = m.pairs(1000, 50);
      const kinds = ["tilted", "ddpm", "ddim"];
      const planes = kinds.map((kind) => fig.panel({ x: [-2.6, 3.4], y: [-3, 3], square: true, share: 1 / 3, narrow: 0.5, label: w.planes[kind] }));
      fig.legend([["mark red", w.legend[0]], ["mark grey pale", w.legend[1]], ["mark ink ring", w.legend[2]]]);
      fig.slider("w", { min: 0, max: 4, step: 0.1 });
      return () => {
        const model = m.guided(labelled, without, state.w);
        const fresh = (i) => (k) => [0, 1].map((j) => m.normal(36, (k * n + i) * 2 + j));
        const made = {
          tilted: many.filter((_, i) => log(m.uniform(37, i)) < state.w * sure[i]).slice(0, n), // (gen-thinned)
          ddpm: starts.map((x, i) => m.ddpmSample(schedule, model, x, jumps, fresh(i)).at(-1)),
          ddim: starts.map((x) => m.ddimSample(schedule, model, x, jumps, 0).at(-1)),
        };
        const values = { made };
        kinds.forEach((kind, i) => {
          const points = made[kind];
          const mean = [0, 1].map((j) => m.sum(points.map((x) => x[j])) / points.length);
          values[`${kind}Width`] = sqrt(m.sum(points.map((x) => m.distance(x, mean) ** 2)) / points.length);
          values[`${kind}Centre`] = mean[0];
          planes[i].dots(data, "grey pale", 1.5);
          planes[i].dots(points, "red", 2);
          for (const centre of all.means) planes[i].dot(centre, "ink ring", 5);
          planes[i].text([-2.6, 3], w.names[kind], { anchor: "start", dx: 8, dy: 18 });
        });
        fig.tell(values);
      };
    },
  };

  // ---- the first page ------------------------------------------------------------------------------------------------

  figures["first-minute"] = {
    words: {
      en: {
        title: "Data to noise, and back",
        plane: "The plane: three hundred points on their way from a spiral to noise and back to a spiral",
        controls: { at: "the way", sampler: "back by", play: "play", pause: "pause" },
        options: { ddim: "DDIM", ddpm: "DDPM" },
        there: "*t* = {t}, to noise", here: "*t* = {t}, back",
        says: ["{way}: of the variance of the points, {alphaBar} is data and {noise} is noise."],
        try: "Slide from left to right. To the middle, each step adds a little noise. From there a model takes it out again: DDPM with fresh noise at each step, DDIM with none, on smooth paths.",
      },
    },
    build(fig) {
      const { w, state } = fig;
      fig.beside = true;
      const [n, T] = [300, walk.T];
      const mixture = m.swissRollMixture(100, 0.08);
      const model = m.epsOf(mixture, walk);
      const colours = ["blue", "sky", "green", "orange", "red", "purple"];
      const plane = fig.panel({ x: [-3, 3], y: [-3, 3], square: true, label: w.plane });
      const data = m.sample(mixture, n, 51);
      const group = data.map((x) => Math.floor((mixture.means.map((c, k) => [m.distance(x, c), k]).sort((a, b) => a[0] - b[0])[0][1] / 100) * 6));
      const fresh = (seed, i) => (k) => [0, 1].map((j) => m.normal(seed, (k * n + i) * 2 + j));
      const there = data.map((x0, i) => {
        const path = [x0];
        for (let t = 1; t <= T; t++) {
          const z = fresh(53, i)(t);
          path.push(path[t - 1].map((v, j) => sqrt(walk.alphas[t]) * v + sqrt(walk.betas[t]) * z[j])); // (fwd-step)
        }
        return path;
      });
      const jumps = m.pairs(T, T);
      const known = {};
      const back = (sampler) => (known[sampler] ??= there.map((path, i) =>
        m.ddimSample(walk, model, path[T], jumps, sampler === "ddpm" ? 1 : 0, fresh(54, i))));
      const t = (at) => (at <= T ? at : 2 * T - at);
      const way = (at) => fig.told(at <= T ? w.there : w.here, { t: t(at) });
      fig.slider("at", { min: 0, max: 2 * T, shown: (at) => `t = ${t(at)}` });
      fig.choice("sampler", ["ddim", "ddpm"]);
      let playing = false;
      const button = fig.button("play", () => {
        playing = !playing;
        if (playing && state.at === 2 * T) state.at = 0;
        requestAnimationFrame(tick);
      });
      let last = 0;
      const tick = (now) => {
        button.textContent = playing ? w.controls.pause : w.controls.play;
        if (!playing || !fig.host.isConnected) return;
        if (now - last > 70) {
          last = now;
          state.at++;
          playing = state.at < 2 * T;
          fig.changed();
        }
        requestAnimationFrame(tick);
      };
      button.hidden = matchMedia("(prefers-reduced-motion: reduce)").matches; // then the slider does it
      return () => {
        const { at, sampler } = state;
        const paths = at <= T ? there : back(sampler);
        const k = at <= T ? at : at - T;
        const points = paths.map((path) => path[k]);
        colours.forEach((look, c) => plane.dots(points.filter((_, i) => group[i] === c), look, 2.5));
        for (const i of [0, 1, 2, 3]) {
          plane.line(paths[i].slice(0, k + 1), "ink thin pale");
          plane.dot(points[i], `${colours[group[i]]} full`, 5);
        }
        fig.tell({ way: way(at), alphaBar: walk.alphaBars[t(at)], noise: walk.oneMinusAlphaBars[t(at)], points });
      };
    },
  };
}

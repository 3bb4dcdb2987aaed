// The figures that move. Each has its words and one function that builds it; what it computes is in maths.js, what it is
// drawn with in draw.js. The state a figure starts from is in ../stills/stills.json, beside its static picture.
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
      zh: {
        title: "红蓝两个样本，在走向噪声的路上渐渐分不清彼此",
        bells: "两条钟形曲线：x_t 若来自红色样本会落在哪里，若来自蓝色样本又会落在哪里",
        curve: "随 t 变化的曲线：最好的猜测猜对颜色的概率",
        point: "红蓝距离的一半",
        controls: { t: "时刻 *t*", half: "距离的一半" },
        legend: ["来自红色的 *x*_t", "来自蓝色的 *x*_t"],
        right: "猜对的概率",
        says: ["*ᾱ*_t = {alphaBar}，SNR = {snr}。", "只看一个 *x*_t，最好的猜测猜对颜色的概率是 {right}。"],
        try: "找出再也分不清颜色的时刻。然后把红与蓝拉开一些，再找一次。",
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
      zh: {
        title: "信号每步乘以 1 − β 的某次幂，许多步之后的方差",
        curve: "随 t 变化的曲线：x_t 的方差",
        point: "数据的方差",
        controls: { power: "指数 *p*", beta: "*β*" },
        legend: ["*x*_t 的方差", "1"],
        axis: "方差",
        says: ["*x*_t = (1 − *β*)^p *x*_{t−1} + √*β* *z*_t。方差从 {start} 出发，200 步后到 {end}，极限是 {limit}。"],
        try: "哪个指数能让方差保持为 1？把它调出来，再把数据的方差拖离 1，看它怎样回来。",
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
      zh: {
        title: "往回走一步：前向的一步，乘以点的分布",
        curves: "t − 1 时刻 x 的四条曲线：点分布在哪里，走到给定点的前向一步，逆向的一步，以及与它最接近的高斯",
        point: "给定的点 x_t",
        controls: { beta: "*β*_t", bar: "*ᾱ*_{t−1}", mirrored: "把数据左右翻转" },
        legend: ["*q*(*x*_{t−1})：点分布在哪里", "*q*(*x*_t | *x*_{t−1})：前向的一步", "*q*(*x*_{t−1} | *x*_t)：回来的路", "与它最接近的高斯"],
        says: ["回来的路在这里有{humps}，与最接近的高斯相差 {kl} 奈特。", "*β*/(1 − *β*) · max *f*″ = {edge}：{verdict}"],
        scale: "各条密度，高度各自缩放",
        one: "一个峰", two: "两个峰",
        below: "不超过 1，所以 *x*_t 在哪里都只有一个峰。", above: "超过 1，所以某些 *x*_t 会有两个峰。",
        try: "来回拖动 *x*_t。把 *β* 调小，回来的路就变成高斯。翻转数据：同一个点，同样的一步，答案却不同。",
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
      zh: {
        title: "往回一步的漂移，由两部分组成",
        plane: "平面：t 时刻带噪声的数据，一个可以拖动的点，以及它往回一步的箭头",
        point: "点 x_t",
        controls: { t: "时刻 *t*", step: "走一步", still: "不加噪声走一步", over: "重来" },
        legend: ["缩放部分", "分数部分", "漂移：两者之和", "猜测 *x̂*_0"],
        says: ["缩放 ({aX}, {aY}) + 分数 ({bX}, {bY}) = 漂移 ({dX}, {dY})。", "走到 *t* − 1 的一步，还要在每个坐标上加大小为 {noise} 的噪声。箭头放大了 {by} 倍。"],
        arrived: ["*t* = 0：到达 ({x}, {y})。", "「重来」会回到你上次放点的地方。"],
        try: "先不加噪声地走，再重来，加噪声地走。箭头并不是点走的路：在一步之内，噪声更大。",
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
      zh: {
        title: "两状态链的界，由四项组成",
        bars: "两根条，分别对应 x_0 = 0 与 x_0 = 1：每根是四项之和，一条线标出精确值",
        controls: { step1: "第 1 步掷硬币", step2: "第 2 步掷硬币", step3: "第 3 步掷硬币" },
        legend: ["*L*_3", "*L*_2", "*L*_1", "*L*_0", "−log *p*(*x*_0)"],
        bar: "*x*_0 = {x}", axis: "奈特",
        says: ["以奈特计，*L*_3 + *L*_2 + *L*_1 + *L*_0 = 界：", "*x*_0 = 0：{L3_0} + {L2_0} + {L1_0} + {L0_0} = {bound_0}；精确值 {nll_0}，间隙 {gap_0}。", "*x*_0 = 1：{L3_1} + {L2_1} + {L1_1} + {L0_1} = {bound_1}；精确值 {nll_1}，间隙 {gap_1}。"],
        try: "每个滑块让模型的一步里掺进一份掷硬币。它推动了哪一项？三个都为 0 时，间隙还剩多少？",
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
      zh: {
        title: "从 t 到 s 的一跳，由三个箭头合成",
        plane: "平面：数据，可以拖动的点 x_t，以及从原点到 x_s 的三个箭头",
        bar: "一根条：x_s 中的噪声，有多少是沿用的，有多少是新加的",
        point: "带噪声的点 x_t",
        controls: { t: "从 *t*", s: "到 *s*", eta: "*η*", again: "换一份新噪声", slip: "笔误：用 *η* 代替 *η*^2" },
        legend: ["√*ᾱ*_s · *x̂*_0", "*κε*，沿用的噪声", "*σz*，新加的噪声"],
        room: "1 − *ᾱ*_s",
        axis: "*x*_s 中噪声的方差",
        says: ["*κ*^2 + *σ*^2 = {turn2} + {sigma2} = {total}，噪声的余地 1 − *ᾱ*_s 是 {room}。", "*x̂*_0 = ({guessX}, {guessY})，*x*_s = ({x}, {y})。"],
        try: "拖动 *x*_t。再把 *η* 从 0 调到 1：绿色变长，红色变短，整根条始终恰好填满。有了那个笔误，两端仍恰好填满，中间却满出来。",
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
      zh: {
        title: "精确模型的样本，步数随你选",
        plane: "平面：各个样本，颜色取自起点，每个有一条线连到走 200 步时的位置",
        controls: { steps: "步数 *S*", eta: "*η*", seed: "随机种子", spacing: "时刻", second: "二阶（2M）" },
        options: { trailing: "trailing", linspace: "linspace", quadratic: "quadratic" },
        legend: ["一个样本", "到 200 步时的位置", "数据的中心"],
        says: ["从 200 步减到 {steps} 步，样本移动了 {moved}（均方根）。", "样本离最近的中心 {off}；真实数据是 {ideal}。"],
        try: "在 *η* = 0 时把步数调小：每个点尽量守住自己的位置。在 *η* = 1 时，每换一次步数就重新洗牌。",
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
      zh: {
        title: "六件衣物，随步数与 eta 变化",
        now: "用 {steps} 步、eta 为 {eta} 画出的六件衣物", best: "同样的六个起点，用 100 步、eta 为 {eta}",
        controls: { steps: "步数", eta: "*η*" },
        rows: ["{steps} 步", "100 步"],
        says: ["*η* = {eta} 时从 {steps} 步增加到 100 步，每个像素移动了黑白之间距离的 {moved}（均方根）。", "一千张这样的图与真实图片的 Fréchet 距离是 {frechet} ± {error}。"],
        try: "在 *η* = 0 时拖动步数：每件衣物画得更细，却还是那一件。再在 *η* = 1 时试一次。",
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
      zh: {
        title: "死记硬背者的猜测，与真正的答案",
        plane: "平面：四十个点，大小表示权重，一个可以拖动的带噪声的点，以及两个猜测",
        point: "带噪声的点 x_t",
        controls: { t: "时刻 *t*" },
        legend: ["四十个点，大小即权重", "死记硬背者的猜测", "真正的猜测", "这些点所来自的卷"],
        says: ["四十个权重中最大的是 {most}。它们合起来相当于 {number} 个相等的权重。", "两个猜测相距 {apart}。"],
        try: "把 *x*_t 放在卷的两圈之间，让 *t* 变小。*t* 大时两个猜测一致；*t* 小时，死记硬背者只认得一个点。",
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
      zh: {
        title: "引导：倾斜后的密度，以及两种采样器实际得到的",
        planes: { tilted: "倾斜密度的真实样本", ddpm: "DDPM 的引导样本", ddim: "DDIM 的引导样本" },
        controls: { w: "引导强度 *w*" },
        names: { tilted: "倾斜密度", ddpm: "DDPM", ddim: "DDIM" },
        legend: ["样本", "全部数据", "各类的中心"],
        says: ["宽度：倾斜密度 {tiltedWidth}，DDPM {ddpmWidth}，DDIM {ddimWidth}。", "中心向右：倾斜密度 {tiltedCentre}，DDPM {ddpmCentre}，DDIM {ddimCentre}；该类本身在 1。"],
        try: "*w* = 0 时，三者都是右边那一类。把 *w* 调大：三者都变窄，都远离其他类，但程度不同。",
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
      zh: {
        title: "从数据到噪声，再回来",
        plane: "平面：三百个点，从螺旋走到噪声，再回到螺旋",
        controls: { at: "路程", sampler: "回程用", play: "播放", pause: "暂停" },
        options: { ddim: "DDIM", ddpm: "DDPM" },
        there: "*t* = {t}，走向噪声", here: "*t* = {t}，回来",
        says: ["{way}：在点的方差中，数据占 {alphaBar}，噪声占 {noise}。"],
        try: "从左拖到右。前一半，每步加一点噪声。后一半，模型再把噪声取出来：DDPM 每步都掺入新噪声，DDIM 一点不掺，走的是光滑的路。",
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

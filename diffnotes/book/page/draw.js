// What the figures are drawn with: panels of SVG in pixels, points to drag, native sliders, a readout, one start for all.
// A figure is `explore.figures[name] = { words: { en: {..} }, build(fig) }`. `build` makes the parts once and returns the
// function that draws them from `fig.state`; it runs again after every change. In words *x* is italic, _t lowers, ^2 raises.
var explore = explore || {};
explore.figures = {};
explore.draw = (() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const { max, min, round, hypot } = Math;

  const furnish = (node, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(key, value);
    node.append(...children.flat());
    return node;
  };
  const svg = (name, attributes = {}, ...children) => furnish(document.createElementNS(NS, name), attributes, children);
  const html = (name, attributes = {}, ...children) => furnish(document.createElement(name), attributes, children);

  // ---- words ---------------------------------------------------------------------------------------------------------

  const pieces = (text) =>
    [...text.matchAll(/\*([^*]+)\*|([_^])(\{[^}]*\}|.)|([^*_^]+)/gu)].map(([, italic, shift, small, plain]) =>
      italic ? ["i", italic] : shift ? [shift === "_" ? "sub" : "sup", small.replace(/[{}]/g, "")] : ["", plain]);
  const lone = (part) => (/^[a-z]([−+]1)?$/.test(part) ? " i" : ""); // a letter below the line is a variable
  const typeset = (text) => pieces(text).map(([tag, part]) => (tag ? html(tag, { class: tag + lone(part) }, part) : part));
  const typesetInSvg = (text) => {
    let back = 0; // tspans do not return to the line by themselves
    return pieces(text).map(([tag, part]) => {
      const shift = { sub: 4, sup: -5 }[tag] ?? 0;
      const span = svg("tspan", { class: tag ? tag + lone(part) : undefined, dy: shift - back || undefined }, part);
      back = shift;
      return span;
    });
  };
  const bare = (text) => text.replace(/[*{}]/g, "").replace(/[_^]/g, " ");

  // three digits, as the book prints them
  const say = (value) => {
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    let text = value.toPrecision(3);
    if (size === Infinity) text = value < 0 ? "-∞" : "∞";
    else if (Number.isInteger(value) || size >= 999.5) text = String(round(value));
    else if (size < 5e-15) text = "0";
    else if (size < 1e-3) text = value.toExponential(1);
    return text.replaceAll("-", "−");
  };
  const plain = (value) => (typeof value === "number" ? String(+value.toFixed(4)).replace("-", "−") : String(value));
  const told = (template, values) => template.replace(/\{(\w+)\}/g, (_, key) => say(values[key]));

  // ---- panels --------------------------------------------------------------------------------------------------------

  let count = 0;

  const panel = (fig, { x, y, label, height, square, share = 1, narrow = 1, most = 430, xTicks, yTicks, xLabel = "", yLabel = "" }) => {
    const clip = `explore-clip-${++count}`;
    const hole = svg("rect");
    const [back, scene, front] = [svg("g"), svg("g", { "clip-path": `url(#${clip})` }), svg("g")];
    const root = svg("svg", { role: "group", "aria-label": bare(label) }, svg("clipPath", { id: clip }, hole), back, scene, front);
    const edge = { left: yTicks ? 46 : 10, right: xTicks ? 18 : 12, top: yLabel ? 24 : 8, bottom: xTicks ? 42 : 8 };
    const p = { root, x, y, share, narrow };
    let [width, high] = [0, 0];

    p.X = (value) => edge.left + ((value - p.x[0]) / (p.x[1] - p.x[0])) * (width - edge.left - edge.right);
    p.Y = (value) => high - edge.bottom - ((value - p.y[0]) / (p.y[1] - p.y[0])) * (high - edge.top - edge.bottom);
    const back_to_x = (px) => p.x[0] + ((px - edge.left) / (width - edge.left - edge.right)) * (p.x[1] - p.x[0]);
    const back_to_y = (px) => p.y[0] + ((high - edge.bottom - px) / (high - edge.top - edge.bottom)) * (p.y[1] - p.y[0]);
    const at = ([a, b]) => `${p.X(a).toFixed(2)},${p.Y(b).toFixed(2)}`;

    p.resize = (room) => {
      width = square ? min(room, most) : room;
      high = square ? width - edge.left - edge.right + edge.top + edge.bottom : height;
      furnish(root, { width, height: high }, []);
      furnish(hole, { x: edge.left, y: edge.top, width: width - edge.left - edge.right, height: high - edge.top - edge.bottom }, []);
    };
    p.clear = () => {
      back.replaceChildren();
      scene.replaceChildren();
      const [left, right, top, bottom] = [edge.left, width - edge.right, edge.top, high - edge.bottom];
      if (square) back.append(svg("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }));
      if (xTicks) back.append(svg("path", { class: "axis", d: `M${left},${bottom}H${right}` }));
      for (const tick of xTicks ?? []) {
        back.append(svg("path", { class: "axis", d: `M${p.X(tick)},${bottom}v4` }));
        back.append(svg("text", { class: "tick", x: p.X(tick), y: bottom + 17, "text-anchor": "middle" }, plain(tick)));
      }
      if (xTicks) back.append(svg("text", { x: (left + right) / 2, y: bottom + 35, "text-anchor": "middle" }, typesetInSvg(xLabel)));
      if (yTicks) back.append(svg("path", { class: "axis", d: `M${left},${top}V${bottom}` }));
      for (const tick of yTicks ?? []) {
        back.append(svg("path", { class: "axis", d: `M${left},${p.Y(tick)}h-4` }));
        back.append(svg("text", { class: "tick", x: left - 8, y: p.Y(tick) + 4, "text-anchor": "end" }, plain(tick)));
      }
      if (yLabel) back.append(svg("text", { x: left - 4, y: 14 }, typesetInSvg(yLabel)));
    };
    p.line = (points, look, close = "") => scene.append(svg("path", { class: `line ${look}`, d: `M${points.map(at).join("L")}${close}` }));
    p.area = (points, look) => {
      const [first, last] = [points[0][0], points.at(-1)[0]];
      scene.append(svg("path", { class: `area ${look}`, d: `M${[[first, 0], ...points, [last, 0]].map(at).join("L")}Z` }));
    };
    // many dots of one look are one path
    p.dots = (points, look, r = 2) => {
      const d = points.map((point) => `M${at(point)}h0`).join("");
      scene.append(svg("path", { class: `dots ${look}`, d, "stroke-width": 2 * r }));
    };
    p.dot = (point, look, r = 4, style) => scene.append(svg("circle", { class: `dot ${look}`, cx: p.X(point[0]), cy: p.Y(point[1]), r, style }));
    p.box = ([a, b], [c, d], look) =>
      scene.append(svg("rect", { class: look, x: min(p.X(a), p.X(c)), y: min(p.Y(b), p.Y(d)), width: Math.abs(p.X(c) - p.X(a)), height: Math.abs(p.Y(d) - p.Y(b)) }));
    p.arrow = (from, to, look, head = 9) => {
      const [x1, y1, x2, y2] = [p.X(from[0]), p.Y(from[1]), p.X(to[0]), p.Y(to[1])];
      const length = hypot(x2 - x1, y2 - y1);
      if (length < 0.5) return;
      const h = min(head, length);
      const [u, v] = [((x2 - x1) / length) * h, ((y2 - y1) / length) * h];
      scene.append(svg("path", { class: `line ${look}`, d: `M${x1},${y1}L${x2 - 0.7 * u},${y2 - 0.7 * v}` }));
      scene.append(svg("path", { class: `head ${look}`, d: `M${x2},${y2}L${x2 - u - 0.45 * v},${y2 - v + 0.45 * u}L${x2 - u + 0.45 * v},${y2 - v - 0.45 * u}Z` }));
    };
    p.text = (point, text, { look = "", dx = 0, dy = 0, anchor = "middle" } = {}) =>
      scene.append(svg("text", { class: `note ${look}`, x: p.X(point[0]) + dx, y: p.Y(point[1]) + dy, "text-anchor": anchor }, typesetInSvg(text)));

    // A point to drag. `get` and `set` exchange its place with the state; `along` is "x", "y" or "xy".
    p.handle = ({ label, get, set, along = "xy", look = "", name = "" }) => {
      const [halo, spot] = [svg("circle", { class: "halo", r: 22 }), svg("circle", { class: `spot ${look}`, r: 8 })];
      const word = svg("text", { class: "note", "text-anchor": "middle", y: -14 }, typesetInSvg(name));
      const node = svg("g", { class: "handle", tabindex: 0, role: "slider", "aria-label": bare(label) }, halo, spot, word);
      front.append(node);
      const move = (point) => {
        const held = [point[0], point[1]].map((v, i) => min(max(v, [p.x, p.y][i][0]), [p.x, p.y][i][1]));
        const old = get();
        set(along === "x" ? [held[0], old[1]] : along === "y" ? [old[0], held[1]] : held);
        fig.changed();
      };
      let grip = null;
      node.addEventListener("pointerdown", (event) => {
        const box = root.getBoundingClientRect();
        const place = get();
        grip = [p.X(place[0]) - (event.clientX - box.left), p.Y(place[1]) - (event.clientY - box.top)];
        node.setPointerCapture(event.pointerId);
        node.focus({ preventScroll: true });
        event.preventDefault();
      });
      node.addEventListener("pointermove", (event) => {
        if (!grip) return;
        const box = root.getBoundingClientRect();
        move([back_to_x(event.clientX - box.left + grip[0]), back_to_y(event.clientY - box.top + grip[1])]);
      });
      // a finger that holds a point does not scroll the page
      node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (grip = null));
      node.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [0, 5], PageDown: [0, -5] }[event.key];
        if (!way) return;
        event.preventDefault();
        const far = event.shiftKey ? 5 : 1;
        const [a, b] = along === "x" ? [way[0] || way[1], 0] : along === "y" ? [0, way[1] || way[0]] : way;
        const place = get();
        move([place[0] + (far * a * (p.x[1] - p.x[0])) / 100, place[1] + (far * b * (p.y[1] - p.y[0])) / 100]);
      });
      p.handles.push(() => {
        const place = get();
        const said = along === "x" ? say(place[0]) : along === "y" ? say(place[1]) : place.map(say).join(", ");
        const one = along === "y" ? 1 : 0;
        furnish(node, {
          transform: `translate(${p.X(place[0]).toFixed(2)},${p.Y(place[1]).toFixed(2)})`,
          "aria-valuemin": [p.x, p.y][one][0], "aria-valuemax": [p.x, p.y][one][1], "aria-valuenow": place[one], "aria-valuetext": said,
        }, []);
      });
      return node;
    };
    p.handles = [];
    return p;
  };

  // ---- a figure ------------------------------------------------------------------------------------------------------

  const figure = (host) => {
    const [name, language] = [host.dataset.figure, host.dataset.lang || document.documentElement.lang || "en"];
    const { words, build } = explore.figures[name];
    const w = words[language.slice(0, 2)] ?? words.en;
    const picture = host.querySelector("img"); // the static one, which some figures cut their pieces from
    const [panels, keys, controls] = [html("div", { class: "panels" }), html("div", { class: "keys" }), html("div", { class: "controls" })];
    const readout = html("p", { class: "readout", role: "status" });
    const all = [];
    const fig = { host, w, picture, state: JSON.parse(host.dataset.state || "{}"), say, told, html, svg, panels };
    let [draw, reserved] = [() => {}, 0];
    host.state = fig.state;

    fig.panel = (options) => {
      const p = panel(fig, options);
      all.push(p);
      panels.append(p.root);
      return p;
    };
    fig.legend = (entries) => {
      for (const [look, text] of entries) {
        const mark = look.startsWith("mark") ? svg("circle", { class: `dot ${look}`, cx: 14, cy: 6, r: 4 })
          : /^(area|full)/.test(look) ? svg("rect", { class: look, x: 4, y: 1, width: 20, height: 10 })
          : svg("path", { class: `line ${look}`, d: "M1,6H27" });
        keys.append(html("span", {}, svg("svg", { width: 28, height: 12, "aria-hidden": "true" }, mark), html("span", {}, ...typeset(text))));
      }
    };
    fig.slider = (key, { min: least, max: most, step = 1, values, shown = plain }) => {
      const input = html("input", { type: "range", min: values ? 0 : least, max: values ? values.length - 1 : most, step: values ? 1 : step });
      const output = html("output", {});
      controls.append(html("label", {}, html("span", {}, ...typeset(w.controls[key])), input, output));
      input.addEventListener("input", () => {
        fig.state[key] = values ? values[+input.value] : +input.value;
        fig.changed();
      });
      fig.refresh.push(() => {
        input.value = values ? values.indexOf(fig.state[key]) : fig.state[key];
        output.textContent = shown(fig.state[key]);
        input.setAttribute("aria-valuetext", output.textContent);
      });
      return input;
    };
    fig.refresh = [];
    fig.choice = (key, options) => {
      const group = `explore-${key}-${++count}`;
      const inputs = options.map((option) => html("input", { type: "radio", name: group, value: option }));
      const labels = options.map((option, i) => html("label", {}, inputs[i], html("span", {}, ...typeset(w.options[option]))));
      controls.append(html("fieldset", {}, html("legend", {}, ...typeset(w.controls[key])), ...labels));
      inputs.forEach((input, i) => input.addEventListener("change", () => {
        fig.state[key] = options[i];
        fig.changed();
      }));
      fig.refresh.push(() => inputs.forEach((input, i) => (input.checked = fig.state[key] === options[i])));
    };
    fig.check = (key) => {
      const input = html("input", { type: "checkbox" });
      controls.append(html("label", { class: "check" }, input, html("span", {}, ...typeset(w.controls[key]))));
      input.addEventListener("change", () => {
        fig.state[key] = input.checked;
        fig.changed();
      });
      fig.refresh.push(() => (input.checked = fig.state[key]));
    };
    fig.button = (key, action) => {
      const button = html("button", { type: "button" }, ...typeset(w.controls[key]));
      let row = controls.querySelector(".buttons");
      if (!row) controls.append((row = html("div", { class: "buttons" })));
      row.append(button);
      button.addEventListener("click", () => {
        action(button);
        fig.changed();
      });
      return button;
    };
    // what the figure says in numbers: `values` are kept in full, the text has three digits
    fig.tell = (values, lines = w.says) => {
      host.values = values;
      const write = (shown) => readout.replaceChildren(...lines.map((line) => html("span", {}, ...typeset(told(line, shown)))));
      write(Object.fromEntries(Object.entries(values).map(([key, value]) => [key, typeof value === "number" ? "−0.0000" : value])));
      reserved = max(reserved, readout.offsetHeight); // room for the longest numbers, so that nothing below is moved
      readout.style.minHeight = `${reserved}px`;
      write(values);
    };
    fig.changed = () => {
      for (const p of all) p.clear();
      draw();
      for (const p of all) for (const place of p.handles) place();
      for (const show of fig.refresh) show();
    };
    draw = build(fig);
    const columns = [html("div", {}, panels, keys), html("div", {}, controls, readout, html("p", { class: "try" }, ...typeset(w.try)))];
    host.replaceChildren(html("div", { class: fig.beside ? "beside" : "below" }, ...columns));
    furnish(host, { role: "group", "aria-label": bare(w.title), "data-alive": "" }, []);
    // JupyterLab leaves the arrow keys to an element that has this, and only to that element
    for (const node of host.querySelectorAll("input, button, [tabindex]")) node.dataset.lmSuppressShortcuts = "true";
    let room = 0;
    const fit = () => {
      const now = Math.floor(panels.getBoundingClientRect().width);
      if (!now || now === room) return;
      [room, reserved] = [now, 0];
      for (const p of all) {
        const share = room < 560 ? p.narrow : p.share; // of a row, beside 16 pixels between two panels
        p.resize(Math.floor((room - 16 * (round(1 / share) - 1)) * share));
      }
      fig.changed();
    };
    new ResizeObserver(fit).observe(panels);
    fit();
  };

  const start = () => {
    for (const host of document.querySelectorAll(".explore[data-figure]:not([data-alive])"))
      if (explore.figures[host.dataset.figure]) figure(host);
  };
  return { start, say };
})();

"use strict";
// Two subjects, a token of the query and a token of a training sequence, each held by a click or touched in passing.
// The query's token colours the training sequences; the training token colours the query.
(() => {
  const data = JSON.parse(document.getElementById("scores").textContent);
  const queryText = document.querySelector(".query .text");
  const inspector = document.querySelector(".inspector");
  const [number, said, release] = ["number", "said", "release"].map((id) => document.getElementById(id));
  const places = new Map();
  const held = { query: null, train: null };
  const touched = { query: null, train: null };
  let relative = "page";

  const unpack = ({ strongest, rounded }) => {
    const bytes = Uint8Array.from(atob(rounded), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const scores = new Float64Array(bytes.length / 2);
    for (let place = 0; place < scores.length; place += 1)
      scores[place] = (view.getInt16(2 * place, true) * strongest) / data.steps;
    return scores;
  };

  const enrol = (text, describe) => {
    const spans = [...text.children];
    const usable = spans.filter((span) => !span.classList.contains("muted"));
    spans.forEach((span, token) => {
      if (span.classList.contains("muted")) return;
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      span.tabIndex = span === usable[0] ? 0 : -1;
      places.set(span, { span, token, usable, ...describe });
    });
    return spans;
  };

  const querySpans = enrol(queryText, { side: "query" });
  const methods = data.methods.map((method, place) => {
    const section = document.getElementById(`m${place}`);
    const shown = [...section.querySelectorAll(".passage")];
    const made = { ...method, section, passages: [] };
    made.passages = method.passages.map(({ whole, pairs }, rank) => {
      const passage = { method: made, element: shown[rank], whole: unpack(whole), pairs: pairs && unpack(pairs) };
      passage.spans = enrol(shown[rank].querySelector(".text"), { side: "train", passage });
      passage.title = shown[rank].querySelector(".of").textContent;
      return passage;
    });
    return made;
  });

  const subject = (side) => touched[side] ?? held[side];
  const column = (passage, token) => passage.pairs.subarray(token * passage.spans.length).subarray(0, passage.spans.length);
  const scoresOf = (passage, query) => (query && passage.pairs ? column(passage, query.token) : passage.whole);
  const strongestOf = (scores) => scores.reduce((most, score) => Math.max(most, Math.abs(score)), 0);

  const written = (score) => {
    const size = Math.abs(score);
    if (!(size > 0)) return "0";
    const rounded = Number(size.toPrecision(3));
    const plain = rounded >= 1e-3 && rounded < 1e3;
    const text = plain ? size.toPrecision(3) : size.toExponential(2).replace("e-", "e−").replace("e+", "e");
    return (score > 0 ? "+" : "−") + text;
  };

  const paint = (span, score, limit) => {
    const strength = limit > 0 ? Math.min(Math.abs(score) / limit, 1) : 0;
    const seen = strength >= 0.01;
    span.classList.toggle("helpful", seen && score > 0);
    span.classList.toggle("harmful", seen && score < 0);
    if (seen) span.style.setProperty("--strength", strength.toFixed(3));
    else span.style.removeProperty("--strength");
  };

  const paintSequences = (query) => {
    for (const method of methods) {
      const limit = query && method.pairLimit ? method.pairLimit : method.wholeLimit;
      for (const passage of method.passages) {
        const scores = scoresOf(passage, query);
        const full = relative === "page" ? limit : strongestOf(scores);
        passage.spans.forEach((span, token) => paint(span, scores[token], full));
        if (!passage.pairs) continue;
        const sum = scores.reduce((total, score) => total + score, 0);
        passage.element.querySelector(".sum").textContent = query ? `this query token: ${written(sum)}` : "";
      }
      const ends = relative === "page" ? [written(-limit), written(limit)] : ["−", "+"];
      ["low", "high"].forEach((end, place) => {
        const shown = method.section.querySelector(`.legend .${end}`);
        if (shown) shown.textContent = ends[place];
      });
    }
  };

  const paintQuery = (train) => {
    const passage = train && train.passage.pairs ? train.passage : null;
    const scores = querySpans.map((_, token) => (passage ? column(passage, token)[train.token] : 0));
    const full = relative === "page" && passage ? passage.method.pairLimit : strongestOf(scores);
    querySpans.forEach((span, token) => paint(span, scores[token], full));
  };

  // A token's spaces stand before its element, so that no colour hangs over at a line's end.
  const lead = ({ previousSibling: before }) => (before && before.nodeType === Node.TEXT_NODE ? before.data : "");

  const quoted = ({ span, token }) => `“${lead(span).replace(/ /g, "␣")}${span.textContent.replace(/\n/g, "")}” (${token + 1})`;

  const inspect = (query, train) => {
    inspector.hidden = false;
    release.hidden = !(held.query || held.train);
    number.className = "";
    if (!train) {
      number.textContent = "";
      said.textContent = query
        ? `Query token ${quoted(query)}: the sequences show their scores for it.`
        : "The sequences show their scores for the whole query.";
      return;
    }
    const score = scoresOf(train.passage, query)[train.token];
    const towards = query && train.passage.pairs ? `query token ${quoted(query)}` : "whole query";
    number.textContent = written(score);
    number.className = score > 0 ? "helpful" : score < 0 ? "harmful" : "";
    said.textContent = `${train.passage.method.label}: ${quoted(train)} of ${train.passage.title} → ${towards}`;
  };

  const mark = (side) => {
    for (const kind of ["held", "touched"])
      for (const span of document.querySelectorAll(`.${kind}-${side}`)) span.classList.remove(`${kind}-${side}`, kind);
    if (held[side]) held[side].span.classList.add(`held-${side}`, "held");
    if (touched[side]) touched[side].span.classList.add(`touched-${side}`, "touched");
  };

  const shown = { query: undefined, train: undefined };
  const show = (all = false) => {
    const [query, train] = [subject("query"), subject("train")];
    mark("query");
    mark("train");
    if (all || shown.query !== query) paintSequences(query);
    if (all || shown.train !== train) paintQuery(train);
    Object.assign(shown, { query, train });
    inspect(query, train);
  };

  const touch = (place) => {
    if (place === (touched.query ?? touched.train)) return;
    touched.query = touched.train = null;
    if (place) touched[place.side] = place;
    show();
  };

  const hold = (place) => {
    const before = held[place.side];
    if (before) before.span.setAttribute("aria-selected", "false");
    held[place.side] = before === place ? null : place;
    place.span.setAttribute("aria-selected", String(before !== place));
    if (before === place) touched.query = touched.train = null;
    show();
  };

  const letGo = () => {
    for (const side of ["query", "train"]) {
      if (held[side]) held[side].span.setAttribute("aria-selected", "false");
      held[side] = touched[side] = null;
    }
    show();
  };

  // The nearest token of the next line, up or down.
  const beside = ({ span, usable }, down) => {
    const from = span.getClientRects()[0];
    const lines = usable.map((other) => ({ other, box: other.getClientRects()[0] }));
    const further = lines.filter(({ box }) => (down ? box.top > from.top + 2 : box.top < from.top - 2));
    if (!further.length) return span;
    const tops = further.map(({ box }) => box.top);
    const line = down ? Math.min(...tops) : Math.max(...tops);
    const distance = ({ box }) => Math.abs(box.left - from.left);
    const level = further.filter(({ box }) => Math.abs(box.top - line) <= 2);
    return level.reduce((best, next) => (distance(next) < distance(best) ? next : best)).other;
  };

  const steps = {
    ArrowRight: ({ span, usable }) => usable[usable.indexOf(span) + 1] ?? span,
    ArrowLeft: ({ span, usable }) => usable[usable.indexOf(span) - 1] ?? span,
    ArrowDown: (place) => beside(place, true),
    ArrowUp: (place) => beside(place, false),
    Home: ({ usable }) => usable[0],
    End: ({ usable }) => usable[usable.length - 1],
  };

  const placeOf = (target) => (target instanceof Element ? places.get(target.closest("[role=option]")) ?? null : null);

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") touch(placeOf(event.target));
  });
  document.documentElement.addEventListener("pointerleave", () => touch(null));
  document.addEventListener("click", (event) => {
    const place = placeOf(event.target);
    if (place) hold(place);
  });
  document.addEventListener("focusin", (event) => {
    const place = placeOf(event.target);
    if (!place) return;
    place.usable.forEach((span) => (span.tabIndex = span === place.span ? 0 : -1));
    if (place.span.matches(":focus-visible")) touch(place);
  });
  document.addEventListener("focusout", (event) => {
    if (placeOf(event.target)) touch(null);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") letGo();
    const place = placeOf(event.target);
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") hold(place);
    else if (steps[event.key]) steps[event.key](place).focus();
    else return;
    event.preventDefault();
  });
  release.addEventListener("click", letGo);
  for (const choice of document.querySelectorAll("[name=scale]"))
    choice.addEventListener("change", () => {
      relative = choice.value;
      show(true);
    });
  const asked = document.querySelector(".query");
  const [first] = places.values();
  if (matchMedia("(max-width: 64rem)").matches) asked.scrollTop = first.span.offsetTop - first.span.offsetHeight;
  relative = document.querySelector("[name=scale]:checked").value; // browsers keep it over a reload
  show(true);
})();

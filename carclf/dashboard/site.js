// The pages inside Airflow's UI: its theme, the charts, the list of runs, a run while it goes on, pictures enlarged.
// What comes from the store is put into the page as text, never as markup.
"use strict";
(() => {
  const SECONDS_RUNNING = 3, SECONDS_WATCHED = 5, SECONDS_OTHERWISE = 15;
  const views = new Map(); // of the charts, by the figure's id

  // Airflow keeps its theme as a class of its own page and in localStorage; alone, the browser's counts.
  function theme() {
    let wanted = "";
    try {
      const above = window.parent === window ? null : window.parent.document.documentElement;
      wanted = ["dark", "light"].find((name) => above && above.classList.contains(name)) || localStorage.getItem("theme") || "";
    } catch { /* of another origin: the browser's own theme */ }
    if (wanted === "dark" || wanted === "light") document.documentElement.dataset.theme = wanted;
    else delete document.documentElement.dataset.theme;
  }
  theme();
  window.addEventListener("storage", theme);
  try {
    if (window.parent !== window) {
      new MutationObserver(theme).observe(window.parent.document.documentElement, {attributes: true, attributeFilter: ["class"]});
    }
  } catch { /* as above */ }

  const root = () => document.body.dataset.root;
  function element(tag, text, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  async function asked(path) {
    const answer = await fetch(path, {headers: {Accept: "application/json"}, credentials: "same-origin"});
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || `${answer.status} ${answer.statusText}`);
    return answer;
  }
  async function json(path) {
    return (await asked(root() + path)).json();
  }

  // The list does not wait for the charts' script, which is large.
  function chartsScript() {
    const script = document.getElementById("vega");
    return window.vegaEmbed ? Promise.resolve() : new Promise((ready) => {
      script.addEventListener("load", ready);
      script.addEventListener("error", ready);
    });
  }
  // ast and its interpreter: without them Vega would make functions of texts, which the page's policy forbids.
  async function draw(within) {
    await chartsScript();
    for (const plot of within.querySelectorAll(".plot[data-spec]")) {
      const options = {mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
        tooltip: {disableDefaultStyle: true, theme: "custom"}};
      try {
        const made = await vegaEmbed(plot, JSON.parse(plot.dataset.spec), options);
        views.set(plot.parentElement.id, made);
      } catch (error) {
        plot.textContent = `The chart cannot be drawn (${error.message}); its table is below.`;
      }
    }
  }

  function fillTable(figure, rows) {
    const body = figure.querySelector("tbody");
    body.replaceChildren(...rows.map((row) => {
      const line = element("tr");
      line.append(...row.map((cell, place) => place ? element("td", cell, {className: "number"}) : element("th", cell, {scope: "row"})));
      return line;
    }));
  }

  // A run's page.
  function changeCharts(charts) {
    for (const chart of charts) {
      const figure = document.getElementById(`chart-${chart.name}`), made = views.get(`chart-${chart.name}`);
      if (!figure || !made) return false;
      const said = figure.querySelector(".said");
      if (said.textContent === chart.summary) continue;
      said.textContent = chart.summary;
      made.view.data("shown", chart.values).runAsync();
      if (figure.querySelector("details").open) fillTable(figure, chart.rows);
      else figure.rows = chart.rows;
    }
    return true;
  }
  function showProgress(lines) {
    const place = document.getElementById("live");
    if (!place) return;
    const ids = lines.map((line) => `progress-${line.stage}`);
    for (const old of [...place.children]) if (!ids.includes(old.id)) old.remove();
    for (const line of lines) {
      let shown = document.getElementById(`progress-${line.stage}`);
      if (!shown) {
        shown = element("p", undefined, {id: `progress-${line.stage}`, className: "progress"});
        const label = element("label");
        label.append(element("span"), element("progress", undefined, {max: 1}));
        shown.append(label);
        place.append(shown);
      }
      shown.querySelector("span").textContent = `${line.text} `;
      shown.querySelector("progress").value = line.share;
    }
  }
  // A page that is followed and cannot be asked for says so, and since when: a login ends, a server is restarted.
  function told(error) {
    let place = document.getElementById("stale");
    if (!error) { place?.remove(); return; }
    console.warn(`carclf: ${error.message}`);
    if (!place) {
      place = element("p", undefined, {id: "stale", className: "warn", role: "status"});
      place.dataset.since = new Date().toISOString().slice(11, 19);
      document.getElementById("main").prepend(place);
    }
    place.textContent = `Not up to date since ${place.dataset.since} UTC: ${error.message}`;
  }
  let last = "";
  async function showAnew(path) {
    const answer = await asked(path), text = await answer.text();
    if (text === last) return;
    last = text;
    const next = document.adoptNode(new DOMParser().parseFromString(text, "text/html").getElementById("main"));
    const before = document.getElementById("main"), focused = pathTo(document.activeElement);
    for (const open of before.querySelectorAll("details[open]")) {
      const same = open.id && next.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    for (const made of views.values()) made.finalize();
    views.clear();
    next.style.minHeight = `${before.offsetHeight}px`; // what is read stays where it is
    before.replaceWith(next);
    await draw(next);
    next.style.minHeight = "";
    pictures(next);
    if (focused) document.querySelector(focused)?.focus({preventScroll: true});
  }
  // How what has the focus is found again in a page that is shown anew.
  function pathTo(one) {
    const part = one?.closest("details[id]"), link = one?.getAttribute("href");
    if (one?.id) return `#${CSS.escape(one.id)}`;
    if (link) return `a[href="${CSS.escape(link)}"]`;
    return part && one.tagName === "SUMMARY" ? `#${CSS.escape(part.id)} > summary` : "";
  }
  async function follow() {
    const main = document.getElementById("main"), run = main.dataset.run;
    let seconds = SECONDS_OTHERWISE;
    if (!document.hidden && !document.querySelector("dialog[open]")) {
      try {
        const found = await json(`/data/runs/${encodeURIComponent(run)}/live`);
        if (found.version !== main.dataset.version || !changeCharts(found.charts)) await showAnew(`${root()}/runs/${encodeURIComponent(run)}`);
        else showProgress(found.progress);
        told();
        if (found.state === "running" || found.version === "none" || found.state === "pending") seconds = SECONDS_RUNNING;
      } catch (error) {
        told(error);
        seconds = SECONDS_RUNNING; // asked again
      }
    }
    setTimeout(follow, 1000 * seconds);
  }

  // An experiment's page, until its recipes are compared.
  async function watch() {
    if (!document.hidden) await showAnew(location.pathname + location.search).then(() => told(), told);
    if ("watched" in document.getElementById("main").dataset) setTimeout(watch, 1000 * SECONDS_WATCHED);
  }

  // A picture is opened by mouse or keyboard, and closed by Escape.
  function pictures(within) {
    for (const pair of within.querySelectorAll(".error div.pair")) {
      const button = element("button", undefined, {type: "button", className: "pair"});
      button.append(...pair.childNodes);
      button.setAttribute("aria-haspopup", "dialog");
      button.addEventListener("click", () => enlarge(button));
      pair.replaceWith(button);
    }
  }
  function enlarge(button) {
    const dialog = element("dialog"), close = element("button", "Close", {type: "button", autofocus: true});
    const pair = element("div", undefined, {className: "pair"}), caption = button.parentElement.querySelector("figcaption");
    pair.append(...[...button.querySelectorAll("img")].map((image) => element("img", undefined, {src: image.src, alt: image.alt})));
    dialog.setAttribute("aria-label", caption.textContent.trim());
    dialog.append(pair, element("p", caption.textContent.trim()), close);
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  }

  // The list of runs.
  const LIMIT = 50, NAMES = ["text", "recipe", "decision", "state", "sort", "descending", "offset"];
  const number = (value, digits) => value === null ? "" : value.toFixed(digits);
  const wanted = {text: "", recipe: "", decision: "", state: "", sort: "created", descending: true, offset: 0};
  const chosen = [];
  let questions = 0, waiting = 0;

  function fromAddress() {
    const given = new URLSearchParams(location.search);
    for (const name of NAMES) {
      if (!given.has(name)) continue;
      wanted[name] = name === "offset" ? Number(given.get(name)) || 0 : name === "descending" ? given.get(name) === "true" : given.get(name);
    }
    for (const name of ["a", "b"]) if (given.get(name)) chosen.push(given.get(name));
  }
  function asQuery(more = {}) {
    const defaults = {sort: "created", descending: true, offset: 0};
    return new URLSearchParams(Object.entries({...wanted, ...more})
      .filter(([name, value]) => value !== "" && value !== defaults[name]).map(([name, value]) => [name, String(value)]));
  }
  async function list() {
    const mine = ++questions, table = document.getElementById("table"), found = document.getElementById("found");
    table.setAttribute("aria-busy", "true");
    try {
      const query = asQuery({limit: LIMIT});
      const answer = await json(`/data/runs?${query}`);
      if (mine !== questions) return; // a later question is under way
      if (wanted.offset && !answer.rows.length) { wanted.offset = 0; return void list(); }
      showRows(answer);
      history.replaceState(null, "", `?${asQuery(Object.fromEntries(chosen.map((run, place) => ["ab"[place], run])))}`);
    } catch (error) {
      found.textContent = `The runs cannot be listed: ${error.message}`;
    } finally {
      if (mine === questions) table.removeAttribute("aria-busy");
    }
  }
  function showRows(answer) {
    const body = document.querySelector("#table tbody"), last = Math.min(wanted.offset + LIMIT, answer.num_matching);
    body.replaceChildren(...answer.rows.map(rowOf));
    document.getElementById("csv").href = `${root()}/data/runs.csv?${asQuery({offset: ""})}`;
    document.getElementById("found").textContent = !answer.num_runs ? "No runs yet: trigger the Dag car_retrain."
      : answer.num_matching === answer.num_runs
      ? `${answer.num_runs} ${answer.num_runs === 1 ? "run" : "runs"}` : `${answer.num_matching} of ${answer.num_runs} runs`;
    document.getElementById("place").textContent = answer.num_matching ? `${wanted.offset + 1}–${last} of ${answer.num_matching}` : "None";
    document.getElementById("before").disabled = wanted.offset === 0;
    document.getElementById("after").disabled = last >= answer.num_matching;
    for (const head of document.querySelectorAll("#table th[data-sort]")) {
      if (head.dataset.sort === wanted.sort) head.setAttribute("aria-sort", wanted.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    for (const [name, values] of [["recipe", answer.recipes], ["decision", answer.decisions], ["state", answer.states]]) {
      const select = document.querySelector(`#filter [name=${name}]`), all = new Set(["", ...values, ...(wanted[name] ? [wanted[name]] : [])]);
      if ([...select.options].map((option) => option.value).join("\n") === [...all].join("\n")) continue;
      select.replaceChildren(...[...all].map((value) => element("option", value || "all", {value})));
      select.value = wanted[name];
    }
  }
  function rowOf(row) {
    const line = element("tr"), box = element("input", undefined, {type: "checkbox", checked: chosen.includes(row.run)});
    box.setAttribute("aria-label", `Compare ${row.run}`);
    box.addEventListener("change", () => choose(row.run, box.checked));
    const link = element("a", row.run, {href: `${root()}/runs/${encodeURIComponent(row.run)}`});
    const interval = row.val_accuracy_low === null || row.val_accuracy_high === null ? "" : ` (${row.val_accuracy_low.toFixed(3)}–${row.val_accuracy_high.toFixed(3)})`;
    const cells = [box, link, row.val_accuracy === null ? "" : number(row.val_accuracy, 4) + interval,
      number(row.public_score, 4), row.decision ? state(row.decision, "") : "", state(row.state, row.text),
      row.created.replace("T", " ").slice(0, 16), row.recipe, row.dataset.slice(0, 8), number(row.minutes, 1),
      number(row.gpu_minutes, 1)]; // in the order of the columns that pages.py names
    for (const [place, cell] of cells.entries()) {
      const made = element("td", undefined, {className: [2, 3, 9, 10].includes(place) ? "number" : ""});
      made.append(cell);
      if (cell === link && row.champion) made.append(" ", element("span", "champion", {className: "state champion"}));
      line.append(made);
    }
    return line;
  }
  function state(text, title) {
    return element("span", text, {className: `state ${text.replaceAll(" ", "-")}`, title});
  }
  function choose(run, on) {
    if (on) chosen.push(run); else chosen.splice(chosen.indexOf(run), 1);
    if (chosen.length > 2) chosen.shift();
    for (const box of document.querySelectorAll("#table tbody input")) {
      box.checked = chosen.includes(box.getAttribute("aria-label").slice("Compare ".length));
    }
    showChosen();
  }
  function showChosen() {
    const link = document.getElementById("compare");
    if (chosen.length === 2) {
      link.href = `${root()}/compare?${new URLSearchParams({a: chosen[0], b: chosen[1]})}`;
      link.removeAttribute("aria-disabled");
      link.textContent = "Compare the two";
    } else {
      link.removeAttribute("href");
      link.setAttribute("aria-disabled", "true");
      link.textContent = chosen.length ? "Choose one more to compare" : "Choose two runs to compare";
    }
  }
  function listen() {
    const form = document.getElementById("filter");
    for (const field of form.elements) field.value = wanted[field.name] ?? "";
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      wanted[event.target.name] = event.target.value;
      wanted.offset = 0;
      clearTimeout(waiting);
      waiting = setTimeout(list, 200);
    });
    for (const head of document.querySelectorAll("#table th[data-sort]")) {
      head.firstElementChild.addEventListener("click", () => {
        const name = head.dataset.sort, texts = ["run", "recipe", "dataset", "state", "decision"];
        wanted.descending = wanted.sort === name ? !wanted.descending : !texts.includes(name);
        Object.assign(wanted, {sort: name, offset: 0});
        list();
      });
    }
    for (const [id, sign] of [["before", -1], ["after", 1]]) {
      document.getElementById(id).addEventListener("click", () => { wanted.offset = Math.max(0, wanted.offset + sign * LIMIT); list(); });
    }
  }

  document.addEventListener("DOMContentLoaded", async () => {
    const main = document.getElementById("main");
    pictures(document);
    document.addEventListener("toggle", (event) => {
      const figure = event.target.closest("figure");
      if (figure && figure.rows && event.target.open) { fillTable(figure, figure.rows); figure.rows = undefined; }
    }, true);
    if (document.getElementById("table")) {
      fromAddress();
      listen();
      showChosen();
      list();
    }
    await draw(document);
    if (main && main.dataset.run) setTimeout(follow, 1000 * SECONDS_RUNNING);
    if (main && "watched" in main.dataset) setTimeout(watch, 1000 * SECONDS_WATCHED);
  });
})();

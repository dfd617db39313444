// The pages in Airflow's UI: theme, charts, enlarged images, the list of runs, and updates of active runs.
// Everything from the store is inserted as text, never as markup.
"use strict";
(() => {
  const SECONDS_ACTIVE = 3, SECONDS_IDLE = 15, SECONDS_AUTO_REFRESH = 5;
  const MAX_SELECTED = 10; // runs to compare, as several_runs.py
  const views = new Map(); // vega-embed results by the id of the figure

  // Airflow stores its theme as a class of its root element and in localStorage. Without a stored theme, the browser's applies.
  function applyTheme() {
    let theme = "";
    try {
      const airflow = window.parent === window ? null : window.parent.document.documentElement;
      theme = ["dark", "light"].find((name) => airflow?.classList.contains(name)) || localStorage.getItem("theme") || "";
    } catch { /* the parent is of another origin */ }
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }
  applyTheme();
  window.addEventListener("storage", applyTheme);
  try {
    if (window.parent !== window) {
      new MutationObserver(applyTheme).observe(window.parent.document.documentElement, {attributes: true, attributeFilter: ["class"]});
    }
  } catch { /* the parent is of another origin */ }

  const root = () => document.body.dataset.root;
  const runUrl = (run) => `${root()}/runs/${encodeURIComponent(run)}`;
  function createElement(tag, text, properties = {}) {
    const element = Object.assign(document.createElement(tag), properties);
    if (text !== undefined) element.textContent = text;
    return element;
  }
  async function request(url, options = {}) {
    const response = await fetch(url, {...options, headers: {Accept: "application/json", ...options.headers}, credentials: "same-origin"});
    if (response.ok) return response;
    const {detail} = await response.json().catch(() => ({}));
    throw new Error(typeof detail === "string" ? detail : `${response.status} ${detail ? JSON.stringify(detail) : response.statusText}`);
  }
  async function sendJson(method, url, body) {
    return (await request(url, {method, body: JSON.stringify(body), headers: {"Content-Type": "application/json"}})).json();
  }
  async function requestJson(path) {
    return (await request(root() + path)).json();
  }

  // The script of the charts is large and loads in the background.
  function loadCharts() {
    const script = document.getElementById("vega");
    return window.vegaEmbed ? Promise.resolve() : new Promise((resolve) => {
      script.addEventListener("load", resolve);
      script.addEventListener("error", resolve);
    });
  }
  // The option ast interprets expressions. Otherwise Vega would compile them, which the content security policy forbids.
  async function drawCharts(container) {
    await loadCharts();
    for (const plot of container.querySelectorAll(".plot[data-spec]")) {
      const options = {mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
        tooltip: {disableDefaultStyle: true, theme: "custom"}};
      try {
        views.set(plot.parentElement.id, await vegaEmbed(plot, JSON.parse(plot.dataset.spec), options));
      } catch (error) {
        plot.textContent = `The chart cannot be drawn (${error.message}). Its values are in the table below.`;
      }
    }
  }

  function fillTable(figure, rows) {
    const body = figure.querySelector("tbody");
    body.replaceChildren(...rows.map((cells) => {
      const row = createElement("tr");
      row.append(...cells.map((cell, column) => column ? createElement("td", cell, {className: "number"}) : createElement("th", cell, {scope: "row"})));
      return row;
    }));
  }

  // The page of a run.
  function updateCharts(charts) {
    for (const chart of charts) {
      const figure = document.getElementById(`chart-${chart.name}`), embedded = views.get(`chart-${chart.name}`);
      if (!figure || !embedded) return false;
      const summary = figure.querySelector(".summary");
      if (summary.textContent === chart.summary) continue;
      summary.textContent = chart.summary;
      embedded.view.data("points", chart.values).runAsync();
      if (figure.querySelector("details").open) fillTable(figure, chart.rows);
      else figure.rows = chart.rows; // filled in when the table is opened
    }
    return true;
  }
  function showProgress(lines) {
    const group = document.getElementById("progress");
    if (!group) return;
    const ids = lines.map((line) => `progress-${line.stage}`);
    for (const paragraph of [...group.children]) if (!ids.includes(paragraph.id)) paragraph.remove();
    for (const line of lines) {
      let paragraph = document.getElementById(`progress-${line.stage}`);
      if (!paragraph) {
        paragraph = createElement("p", undefined, {id: `progress-${line.stage}`, className: "progress"});
        const label = createElement("label");
        label.append(createElement("span"), createElement("progress", undefined, {max: 1}));
        paragraph.append(label);
        group.append(paragraph);
      }
      paragraph.querySelector("span").textContent = `${line.text} `;
      paragraph.querySelector("progress").value = line.fraction;
    }
  }
  // Show that a page can no longer be updated, for example because the login expired.
  function showStale(error) {
    console.warn(`carclf: ${error.message}`);
    let message = document.getElementById("stale");
    if (!message) {
      message = createElement("p", undefined, {id: "stale", className: "warn", role: "status"});
      message.dataset.since = new Date().toISOString().slice(11, 19);
      document.getElementById("main").prepend(message);
    }
    message.textContent = `Not up to date since ${message.dataset.since} UTC: ${error.message}`;
  }
  function hideStale() {
    document.getElementById("stale")?.remove();
  }
  let lastHtml = "";
  async function reload(url) {
    const html = await (await request(url)).text();
    if (html === lastHtml) return;
    lastHtml = html;
    const next = document.adoptNode(new DOMParser().parseFromString(html, "text/html").getElementById("main"));
    const previous = document.getElementById("main"), focused = selectorOf(document.activeElement);
    for (const open of previous.querySelectorAll("details[open]")) {
      const same = open.id && next.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    for (const embedded of views.values()) embedded.finalize();
    views.clear();
    next.style.minHeight = `${previous.offsetHeight}px`; // keeps the scroll position until the charts are drawn
    previous.replaceWith(next);
    await drawCharts(next);
    next.style.minHeight = "";
    makeImagesZoomable(next);
    if (focused) document.querySelector(focused)?.focus({preventScroll: true});
  }
  // A selector of the focused element, to restore the focus after a reload of the page.
  function selectorOf(element) {
    const details = element?.closest("details[id]"), href = element?.getAttribute("href");
    if (element?.id) return `#${CSS.escape(element.id)}`;
    if (href) return `a[href="${CSS.escape(href)}"]`;
    return details && element.tagName === "SUMMARY" ? `#${CSS.escape(details.id)} > summary` : "";
  }
  async function followRun() {
    const main = document.getElementById("main"), run = main.dataset.run;
    let seconds = SECONDS_IDLE;
    if (!document.hidden && !document.querySelector("dialog[open]")) {
      try {
        const update = await requestJson(`/data/runs/${encodeURIComponent(run)}/live`);
        if (update.version !== main.dataset.version || !updateCharts(update.charts)) await reload(runUrl(run));
        else showProgress(update.progress);
        hideStale();
        if (update.version === "none" || ["running", "not started", "incomplete"].includes(update.state)) seconds = SECONDS_ACTIVE;
      } catch (error) {
        showStale(error);
        seconds = SECONDS_ACTIVE;
      }
    }
    setTimeout(followRun, 1000 * seconds);
  }

  // The page of an experiment, until its recipes are compared.
  async function autoRefresh() {
    if (!document.hidden) await reload(location.pathname + location.search).then(hideStale, showStale);
    if ("autoRefresh" in document.getElementById("main").dataset) setTimeout(autoRefresh, 1000 * SECONDS_AUTO_REFRESH);
  }

  // Images open in a dialog by mouse or keyboard; Escape closes it.
  function makeImagesZoomable(container) {
    for (const pair of container.querySelectorAll(".error div.pair")) {
      const button = createElement("button", undefined, {type: "button", className: "pair"});
      button.append(...pair.childNodes);
      button.setAttribute("aria-haspopup", "dialog");
      button.addEventListener("click", () => zoom(button));
      pair.replaceWith(button);
    }
  }
  function zoom(button) {
    const dialog = createElement("dialog"), close = createElement("button", "Close", {type: "button", autofocus: true});
    const pair = createElement("div", undefined, {className: "pair"}), caption = button.parentElement.querySelector("figcaption").textContent.trim();
    pair.append(...[...button.querySelectorAll("img")].map((image) => createElement("img", undefined, {src: image.src, alt: image.alt})));
    dialog.setAttribute("aria-label", caption);
    dialog.append(pair, createElement("p", caption), close);
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  }

  // The list of runs.
  const LIMIT = 50, DEFAULT_QUERY = {text: "", recipe: "", decision: "", state: "", sort: "created", descending: true, offset: 0};
  const TEXT_COLUMNS = ["run", "recipe", "dataset", "state", "decision"]; // sorted in ascending order first
  const formatNumber = (value, digits) => value === null ? "" : value.toFixed(digits);
  const query = {...DEFAULT_QUERY};
  const selected = []; // the runs to compare, at most two
  let requestId = 0, inputTimer = 0, shownPage = "";

  function readQuery() {
    const parameters = new URLSearchParams(location.search);
    for (const name of Object.keys(query)) {
      if (!parameters.has(name)) continue;
      const value = parameters.get(name);
      query[name] = name === "offset" ? Number(value) || 0 : name === "descending" ? value === "true" : value;
    }
    selected.push(...[...parameters.getAll("a"), ...parameters.getAll("b")].filter(Boolean).slice(0, MAX_SELECTED));
  }
  function queryString(more = {}) {
    return new URLSearchParams(Object.entries({...query, ...more})
      .filter(([name, value]) => value !== "" && value !== DEFAULT_QUERY[name]).map(([name, value]) => [name, String(value)]));
  }
  function selectedQuery() {
    return new URLSearchParams(selected.map((run, index) => [index ? "b" : "a", run]));
  }
  function updateUrl() {
    history.replaceState(null, "", `?${[queryString(), selectedQuery()].filter((part) => String(part)).join("&")}`);
  }
  async function loadRuns(isRefresh = false) {
    const id = ++requestId, table = document.getElementById("runs-table");
    if (!isRefresh) table.setAttribute("aria-busy", "true");
    try {
      const page = await requestJson(`/data/runs?${queryString({limit: LIMIT})}`);
      if (id !== requestId) return; // a later request is pending
      if (query.offset && !page.rows.length) { query.offset = 0; return void loadRuns(); }
      if (isRefresh && shownPage === JSON.stringify(page)) return;
      const focused = document.activeElement?.dataset.run;
      showRuns(page);
      if (focused) table.querySelector(`input[data-run="${CSS.escape(focused)}"]`)?.focus({preventScroll: true});
      if (isRefresh) updateCharts([await requestJson("/data/timeline")]);
      shownPage = JSON.stringify(page);
      updateUrl();
    } catch (error) {
      shownPage = ""; // the next response replaces the message
      document.getElementById("status").textContent = `The runs cannot be loaded: ${error.message}`;
    } finally {
      if (id === requestId) table.removeAttribute("aria-busy");
    }
  }
  async function refreshRuns() {
    if (!document.hidden) await loadRuns(true);
    setTimeout(refreshRuns, 1000 * SECONDS_IDLE);
  }
  function showRuns(page) {
    const body = document.querySelector("#runs-table tbody"), last = Math.min(query.offset + LIMIT, page.num_matching);
    body.replaceChildren(...page.rows.map(createRow));
    document.getElementById("csv").href = `${root()}/data/runs.csv?${queryString({offset: ""})}`;
    document.getElementById("status").textContent = statusText(page);
    document.getElementById("position").textContent = page.num_matching ? `${query.offset + 1}–${last} of ${page.num_matching}` : "None";
    document.getElementById("previous").disabled = query.offset === 0;
    document.getElementById("next").disabled = last >= page.num_matching;
    for (const header of document.querySelectorAll("#runs-table th[data-sort]")) {
      if (header.dataset.sort === query.sort) header.setAttribute("aria-sort", query.descending ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    }
    for (const [name, values] of [["recipe", page.recipes], ["decision", page.decisions], ["state", page.states]]) updateFilter(name, values);
  }
  function statusText(page) {
    if (!page.num_runs) return "No runs yet. To start one, trigger the DAG car_retrain.";
    if (page.num_matching < page.num_runs) return `${page.num_matching} of ${page.num_runs} runs`;
    return `${page.num_runs} ${page.num_runs === 1 ? "run" : "runs"}`;
  }
  function updateFilter(name, values) {
    const select = document.querySelector(`#filter [name=${name}]`), choices = new Set(["", ...values, ...(query[name] ? [query[name]] : [])]);
    if ([...select.options].map((option) => option.value).join("\n") === [...choices].join("\n")) return;
    select.replaceChildren(...[...choices].map((value) => createElement("option", value || "all", {value})));
    select.value = query[name];
  }
  function createRow(run) {
    const row = createElement("tr"), box = createElement("input", undefined, {type: "checkbox", checked: selected.includes(run.run)});
    box.setAttribute("aria-label", `Compare ${run.run}`);
    box.dataset.run = run.run;
    box.addEventListener("change", () => selectRun(run.run, box.checked));
    const link = createElement("a", run.run, {href: runUrl(run.run)});
    const interval = run.val_metric_low === null || run.val_metric_high === null ? "" : ` (${run.val_metric_low.toFixed(3)}–${run.val_metric_high.toFixed(3)})`;
    const headers = [...document.querySelectorAll("#runs-table th[data-sort]")], isMixed = headers.some((header) => header.textContent.startsWith("Metric"));
    const metric = isMixed && run.val_metric !== null ? `${run.metric.replaceAll("_", " ")} ` : "";
    const cells = {run: link, val_metric: run.val_metric === null ? "" : metric + formatNumber(run.val_metric, 4) + interval,
      val_accuracy: formatNumber(run.val_accuracy, 4), public_score: formatNumber(run.public_score, 4),
      decision: run.decision ? createBadge(run.decision, "") : "", state: createBadge(run.state, run.text),
      created: run.created.replace("T", " ").slice(0, 16), recipe: run.recipe, dataset: run.dataset.slice(0, 8),
      minutes: formatNumber(run.minutes, 1), gpu_minutes: formatNumber(run.gpu_minutes, 1)};
    const boxCell = createElement("td");
    boxCell.append(box);
    row.append(boxCell);
    for (const header of headers) {
      const cell = createElement("td", undefined, {className: header.className}), content = cells[header.dataset.sort];
      cell.append(content);
      if (content === link && run.champion) cell.append(" ", createElement("span", "champion", {className: "state champion"}));
      row.append(cell);
    }
    return row;
  }
  function createBadge(text, title) {
    return createElement("span", text, {className: `state ${text.replaceAll(" ", "-")}`, title});
  }
  function selectRun(run, isSelected) {
    if (isSelected) selected.push(run); else selected.splice(selected.indexOf(run), 1);
    if (selected.length > MAX_SELECTED) selected.shift();
    for (const box of document.querySelectorAll("#runs-table tbody input")) box.checked = selected.includes(box.dataset.run);
    showSelection();
    updateUrl();
  }
  function showSelection() {
    const link = document.getElementById("compare");
    if (selected.length > 1) {
      link.href = `${root()}/compare?${selectedQuery()}`;
      link.removeAttribute("aria-disabled");
      link.textContent = `Compare the ${selected.length} runs`;
    } else {
      link.removeAttribute("href");
      link.setAttribute("aria-disabled", "true");
      link.textContent = selected.length ? "Select another run to compare" : "Select runs to compare";
    }
  }
  function addListeners() {
    const form = document.getElementById("filter");
    for (const field of form.elements) field.value = query[field.name] ?? "";
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      query[event.target.name] = event.target.value;
      query.offset = 0;
      clearTimeout(inputTimer);
      inputTimer = setTimeout(loadRuns, 200);
    });
    for (const header of document.querySelectorAll("#runs-table th[data-sort]")) {
      header.firstElementChild.addEventListener("click", () => {
        const name = header.dataset.sort;
        query.descending = query.sort === name ? !query.descending : !TEXT_COLUMNS.includes(name);
        Object.assign(query, {sort: name, offset: 0});
        loadRuns();
      });
    }
    for (const [id, sign] of [["previous", -1], ["next", 1]]) {
      document.getElementById(id).addEventListener("click", () => { query.offset = Math.max(0, query.offset + sign * LIMIT); loadRuns(); });
    }
  }

  // The page that starts a run. Its URL has the values of the form; the server returns what a run would do with them.
  function formUrl() {
    const parameters = new URLSearchParams();
    for (const {name, value} of document.getElementById("start-form").elements) {
      if (!name || !value) continue;
      if (["recipe", "note"].includes(name)) parameters.append(name, value);
      else parameters.append("set", `${name}=${value}`);
    }
    return `${location.pathname}?${parameters}`;
  }
  async function updatePreview(isNewRecipe) {
    const url = formUrl();
    history.replaceState(null, "", url);
    try {
      if (isNewRecipe) await reload(url); // the hints are those of the recipe
      else {
        const html = await (await request(url)).text();
        if (url !== formUrl()) return; // a later request is pending
        const next = new DOMParser().parseFromString(html, "text/html").getElementById("preview");
        document.getElementById("preview").replaceWith(document.adoptNode(next));
      }
      await showPaused();
    } catch (error) {
      document.getElementById("start-error").textContent = error.message;
    }
  }
  async function showPaused() {
    const dag = await (await request(document.getElementById("start-form").dataset.api)).json();
    document.getElementById("paused").hidden = !dag.is_paused;
  }
  async function startRun() {
    const button = document.getElementById("start"), form = document.getElementById("start-form");
    button.disabled = true;
    document.getElementById("start-error").textContent = "";
    try {
      const conf = JSON.parse(button.dataset.conf), note = form.elements.note.value || null;
      if (document.getElementById("unpause").checked) await sendJson("PATCH", form.dataset.api, {is_paused: false});
      const run = await sendJson("POST", `${form.dataset.api}/dagRuns`, {logical_date: null, conf, note});
      location.assign(`${root()}/dag-run?${new URLSearchParams({dag_id: run.dag_id, run_id: run.dag_run_id})}`);
    } catch (error) {
      button.disabled = false;
      document.getElementById("start-error").textContent = error.message;
    }
  }
  function addStartListeners() { // of the document, because a new recipe replaces the form
    document.addEventListener("input", ({target}) => {
      if (!target.name || target.name === "note") return;
      document.getElementById("start").disabled = true; // until the preview has been updated
      clearTimeout(inputTimer);
      inputTimer = setTimeout(updatePreview, 300, target.name === "recipe");
    });
    document.addEventListener("click", ({target}) => { if (target.id === "start") startRun(); });
    document.addEventListener("submit", (event) => event.preventDefault());
  }

  // The page of an approval. Airflow asks the question; the response is that of the user who is logged in.
  async function findQuestion() {
    const form = document.getElementById("approval-form"), buttons = [...form.querySelectorAll("button.respond")];
    if (!buttons.length) return;
    const status = document.getElementById("approval-status");
    try {
      const parameters = new URLSearchParams({response_received: false, subject_search: form.dataset.run, limit: 100, order_by: "-created_at"});
      const {hitl_details: questions} = await (await request(`${form.dataset.api}/dagRuns/~/hitlDetails?${parameters}`)).json();
      const question = questions.find(({subject}) => subject === form.dataset.subject);
      status.textContent = question ? "" : "Airflow does not ask about this candidate now. car_promote asks within the hour, unless it is paused.";
      if (!question) return;
      for (const button of buttons) {
        button.disabled = false;
        button.addEventListener("click", () => respond(question.task_instance, button.value, buttons, status));
      }
    } catch (error) {
      status.textContent = `The question cannot be loaded: ${error.message}`;
    }
  }
  async function respond(task, choice, buttons, status) {
    const form = document.getElementById("approval-form"), note = form.elements.note.value || null;
    const path = ["dagRuns", task.dag_run_id, "taskInstances", task.task_id, task.map_index, "hitlDetails"].map(encodeURIComponent).join("/");
    for (const button of buttons) button.disabled = true;
    try {
      await sendJson("PATCH", `${form.dataset.api}/${path}`, {chosen_options: [choice], params_input: {note}});
      status.textContent = `${choice === "Approve" ? "Approved" : "Rejected"}. The result appears in the report of the run within a minute.`;
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      status.textContent = error.message;
    }
  }

  document.addEventListener("DOMContentLoaded", async () => {
    const main = document.getElementById("main");
    makeImagesZoomable(document);
    document.addEventListener("toggle", (event) => {
      const figure = event.target.closest("figure");
      if (figure && figure.rows && event.target.open) { fillTable(figure, figure.rows); figure.rows = undefined; }
    }, true);
    if (document.getElementById("runs-table")) {
      readQuery();
      addListeners();
      showSelection();
      loadRuns();
      setTimeout(refreshRuns, 1000 * SECONDS_IDLE);
    }
    if (document.getElementById("start-form")) {
      addStartListeners();
      showPaused().catch(({message}) => { document.getElementById("start-error").textContent = message; });
    }
    if (document.getElementById("approval-form")) findQuestion();
    await drawCharts(document);
    if (main && main.dataset.run) setTimeout(followRun, 1000 * SECONDS_ACTIVE);
    if (main && "autoRefresh" in main.dataset) setTimeout(autoRefresh, 1000 * SECONDS_AUTO_REFRESH);
  });
})();

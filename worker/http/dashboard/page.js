// The page as a whole: actions, sign-in, polling.

const ASK_EVERY = 5000;
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// --- Actions: each shows what it will do, and asks for confirmation.

const ACTIONS = {
  "retry-failed": { question: "Retry all failed jobs?", consequence: "Every failed job of a batch that was not cancelled is retried, with all its attempts. Only missing photos are made and paid for. Photos that Gemini refused are not retried.", yes: "Retry them" },
  "release-stale": { question: "Release stale locks?", consequence: "Jobs that have been locked for more than five minutes become ready again. Their workers have died. The next run would do the same.", yes: "Release them" },
  cancel: { question: "Cancel this batch?", consequence: "Its missing photos are not made. Its finished photos are kept. This cannot be undone.", yes: "Cancel the batch" },
  pause: { question: "Pause all generation?", consequence: "No worker starts another photo until someone resumes generation. New orders are still accepted.", yes: "Pause" },
  resume: { question: "Resume generation?", consequence: "This ends the pause and every block that a quota caused.", yes: "Resume" },
};
const RETRY_BATCH = { question: "Retry this batch's failed jobs?", consequence: "They are retried, with all their attempts. Only missing photos are made and paid for. Photos that Gemini refused are not retried.", yes: "Retry them" };
const OUTCOMES = {
  "retry-failed": ({ retried }) => `Retrying ${counted(retried, "job")}.`,
  "release-stale": ({ released }) => `${counted(released, "job")} released.`,
  cancel: ({ jobsCancelled }) => `${counted(jobsCancelled, "job")} cancelled.`,
  pause: () => "Paused.",
  resume: () => "Resumed.",
};

function confirmed(name, batchId) {
  const dialog = find("confirm");
  const action = batchId && name === "retry-failed" ? RETRY_BATCH : ACTIONS[name];
  write(find("question"), action.question);
  write(find("consequence"), batchId ? `${action.consequence} Batch ${batchId}.` : action.consequence);
  write(find("yes"), action.yes);
  find("reason").hidden = find("reason-label").hidden = name !== "pause";
  find("reason").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

async function act(batchId, action) {
  if (!(await confirmed(action, batchId))) return;
  const reason = find("reason").value.trim();
  const body = { action, ...(batchId && { batchId }), ...(action === "pause" && reason && { reason }) };
  try {
    say(OUTCOMES[action](await ask("actions", body)));
  } catch (error) {
    say(`The action failed: ${error.message}`);
  }
  await refresh();
}

let lastSaid = 0;
async function say(text) {
  const mine = ++lastSaid;
  write(find("said"), text);
  find("said").hidden = false;
  await wait(6000);
  if (mine === lastSaid) find("said").hidden = true;
}

// --- Sign-in and polling.

// Hides the queue and shows the sign-in form, or the reason why nobody can sign in.
function showInstead(id) {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  document.querySelector("main").hidden = true;
  for (const each of ["sign-in", "closed"]) find(each).hidden = each !== id;
  find("forget").hidden = find("pause").hidden = find("resume").hidden = true;
  find("health").hidden = true;
  write(find("freshness"), "");
}

function showSignIn(refused) {
  showInstead("sign-in");
  write(find("refused"), sessionStorage.getItem(SECRET) ? refused : "");
  sessionStorage.removeItem(SECRET);
  find("secret").focus();
}

function show(overview) {
  const first = document.querySelector("main").hidden;
  find("sign-in").hidden = find("closed").hidden = true;
  find("health").hidden = document.querySelector("main").hidden = false;
  find("forget").hidden = !sessionStorage.getItem(SECRET);
  showHealth(overview.health);
  showWarnings(overview.stats);
  showNumbers(overview.stats);
  showCharts(overview.stats);
  showGate(overview.stats);
  for (const part of [showTroubles, showBatches, showPhotos, showRuns]) part(overview);
  write(find("freshness"), `As of ${new Date(overview.at).toLocaleTimeString()}, updated every ${ASK_EVERY / 1000} s while this tab is visible`);
  if (first) document.querySelector("h1").scrollIntoView();
}

// The batch whose dialog is open; it is refreshed with the page.
let opened = null;

async function openBatch(id) {
  opened = id;
  try {
    const details = await ask(`batch?id=${encodeURIComponent(id)}`);
    if (opened !== id) return; // it was closed, or another batch was opened
    showBatch(details);
    if (!find("batch").open) find("batch").showModal();
  } catch (error) {
    say(`The batch cannot be shown: ${error.message}`);
  }
}

async function refresh() {
  try {
    show(await ask("overview"));
    if (find("batch").open) await openBatch(opened);
  } catch (error) {
    if (error.unauthorized) return showSignIn(error.wrongSecret ? "This is not the value of OPERATOR_SECRET." : error.message);
    if (error.forbidden) {
      showInstead("closed");
      return write(find("why"), error.message);
    }
    find("health").hidden = false;
    showHealth({ level: "trouble", words: error instanceof Refused ? error.message : "The worker does not respond. Retrying." });
    write(find("freshness"), "The data below may be out of date.");
  }
}

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(SECRET, find("secret").value);
  find("secret").value = "";
  refresh();
});
find("forget").addEventListener("click", () => {
  sessionStorage.removeItem(SECRET);
  showSignIn("");
});
for (const name of ["pause", "resume", "retry-failed", "release-stale"]) find(name).addEventListener("click", () => act(null, name));
find("yes").addEventListener("click", () => find("confirm").close("yes"));
find("no").addEventListener("click", () => find("confirm").close("no"));
find("batch-retry").addEventListener("click", () => act(opened, "retry-failed"));
find("batch-close").addEventListener("click", () => find("batch").close());
find("batch").addEventListener("close", () => (opened = null));
find("close").addEventListener("click", () => find("photo").close());

// Without a configured secret the page does not ask for one: the worker serves this machine only, or says what to set.
if (document.documentElement.dataset.secret === "asked" && !sessionStorage.getItem(SECRET)) showSignIn("");

(async () => {
  for (;;) {
    if (!document.hidden && find("sign-in").hidden) await refresh();
    await wait(ASK_EVERY);
  }
})();

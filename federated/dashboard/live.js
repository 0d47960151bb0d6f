"use strict";
// Replaces what is inside #live whenever the log has grown; keeps what is there while the server is away.
const place = document.getElementById("live");
let seen = "";

async function look() {
  try {
    const answer = await fetch("/live", { headers: seen ? { "If-None-Match": seen } : {}, cache: "no-store" });
    if (answer.status === 200) {
      const offsets = [...place.querySelectorAll(".scroll")].map((box) => box.scrollTop);
      place.innerHTML = await answer.text();
      [...place.querySelectorAll(".scroll")].forEach((box, i) => { box.scrollTop = offsets[i] || 0; });
      for (const time of place.querySelectorAll("time")) {
        time.textContent = new Date(time.dateTime).toLocaleString();
        time.title = time.dateTime;
      }
      seen = answer.headers.get("ETag") || "";
    }
    document.title = document.title.replace(/^\(away\) /, "");
  } catch {
    if (!document.title.startsWith("(away) ")) document.title = "(away) " + document.title;
  }
  setTimeout(look, 2000);
}

look();

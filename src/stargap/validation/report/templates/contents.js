// Marks in the contents the section that is being read.
(() => {
  "use strict";
  const nav = document.getElementById("contents");
  const links = Array.from(nav.querySelectorAll("a"), (link) => [link, document.getElementById(link.hash.slice(1))]);
  let waiting = false;
  function mark() {
    waiting = false;
    const line = window.innerHeight / 3;
    const end = window.scrollY > 0 && window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 2;
    let current = null;
    for (const [link, place] of links) {
      const reached = place.getBoundingClientRect().top <= line;
      if (link.offsetParent !== null && (reached || end)) current = link;
    }
    for (const [link] of links) {
      if (link !== current) link.removeAttribute("aria-current");
    }
    if (current === null || current.hasAttribute("aria-current")) return;
    current.setAttribute("aria-current", "true");
    nav.scrollTo({ left: current.offsetLeft - 40, top: current.offsetTop - nav.clientHeight / 2 });
  }
  function soon() {
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(mark);
  }
  window.addEventListener("scroll", soon, { passive: true });
  window.addEventListener("resize", soon);
  mark();
})();

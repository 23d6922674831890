"use strict";

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

// A count as the page's tables have it: 12,345.
function grouped(number) {
  return number.toLocaleString("en");
}

// What the address points to; a malformed one points to nothing.
function fragment() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

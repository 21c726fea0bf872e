// Before the first paint, so that a chosen theme never flashes: a plain script, not a module.
try {
  const theme = localStorage.getItem('longshore.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden: the system's theme it is.
}

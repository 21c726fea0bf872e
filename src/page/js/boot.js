// What is there without scripts is painted first: four files. The other modules are asked for after that frame, all at once
// and not one after another's imports.
requestAnimationFrame(() =>
  setTimeout(() => {
    for (const name of document.querySelector('[data-modules]').dataset.modules.split(' ')) {
      const link = document.createElement('link');
      link.rel = 'modulepreload';
      link.href = new URL(name, import.meta.url);
      document.head.append(link);
    }
    import('./main.js');
  }),
);

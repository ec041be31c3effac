import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

const gateway = process.env.SHIORI_URL ?? 'http://127.0.0.1:8000'

export default defineConfig({
  plugins: [react()],
  server: { proxy: { '/v1': gateway } },
  build: { target: 'es2022' },
})
